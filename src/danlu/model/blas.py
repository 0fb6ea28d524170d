"""Who computes float32 matrix products of training on a CPU: PyTorch, or the OpenBLAS that numpy brings along.

Which is faster depends on the processor, so that it is measured (`train.devices`) and chosen for the whole process,
as threads are. OpenBLAS is called from compiled code (extra [fast], see `openblas`).

Shapes: M rows, N columns, K summed over.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from danlu.model.rooms import room

Blas = Literal["torch", "numpy"]
_chosen: Blas = "torch"


def use(name: Blas) -> None:
    """Have products computed by that library from now on, numpy's own on one thread while it is numpy's.

    Raises ImportError where it is not here.
    """
    global _chosen
    if name != _chosen:
        from danlu.model import openblas

        openblas.have_threads(name == "torch")
    _chosen = name


def used() -> Blas:
    """Tell which library computes products."""
    return _chosen


def by_openblas(x: Tensor) -> bool:
    """Tell whether products of such numbers are OpenBLAS's."""
    return _chosen == "numpy" and x.dtype == torch.float32 and x.device.type == "cpu"


def product(a_MK: Tensor, b_KN: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute a·b, into `out` if it is given; without gradients."""
    out_MN = room(a_MK, len(a_MK), b_KN.shape[1]) if out is None else out
    if not _fits(a_MK, b_KN) or not out_MN.is_contiguous():
        return pytorchs_product(a_MK, b_KN, out_MN)
    from danlu.model import openblas

    return openblas.multiply(a_MK, b_KN, out_MN, 0)


def add_product(out_MN: Tensor, a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """Add a·b to `out`, in place; without gradients."""
    if not _fits(a_MK, b_KN) or not out_MN.is_contiguous():
        return pytorchs_add_product(out_MN, a_MK, b_KN)
    from danlu.model import openblas

    return openblas.multiply(a_MK, b_KN, out_MN, 1)


def pytorchs_product(a_MK: Tensor, b_KN: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute a·b by PyTorch, whatever was chosen."""
    return torch.mm(a_MK, b_KN, out=out)


def pytorchs_add_product(out_MN: Tensor, a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """Add a·b to `out` by PyTorch, whatever was chosen."""
    return torch.addmm(out_MN, a_MK, b_KN, out=out_MN)


def _fits(a_MK: Tensor, b_KN: Tensor) -> bool:
    return by_openblas(a_MK) and all(1 in t.stride() and 0 not in t.stride() for t in (a_MK, b_KN))
