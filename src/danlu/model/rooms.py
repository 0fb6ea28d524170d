"""Memory for the large tensors of a training step on a CPU, cut so that the next step finds it again.

PyTorch asks the C library for addresses that are multiples of 64. glibc then searches for a gap of 96 bytes more than
it will fill, so that the gap which a tensor leaves does not take the next one of its size, and the heap grows: by a
tenth of all that a step of `small-25m` takes. numpy asks for plain memory; the multiple of 64 is found in it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_ALIGNED, _LARGE = 64, 1 << 18
"""Bytes."""


def room(like: Tensor, *shape: int) -> Tensor:
    """Return a tensor of `like`'s type on its device, with whatever is in it."""
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < _LARGE:
        return like.new_empty(shape)
    held = np.empty(size + _ALIGNED, dtype=np.uint8)
    start = -held.ctypes.data % _ALIGNED
    return torch.from_numpy(held[start : start + size]).view(like.dtype).view(shape)


def copied(x: Tensor) -> Tensor:
    """Return a contiguous copy."""
    return room(x, *x.shape).copy_(x)


class Rooms(dict[str, Tensor]):
    """Memory that each block of a forward uses anew."""

    def room(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of `like`'s type, with whatever is in it."""
        wanted = math.prod(shape)
        if name not in self or len(self[name]) < wanted:
            self[name] = room(like, wanted)
        return self[name][:wanted].view(shape)
