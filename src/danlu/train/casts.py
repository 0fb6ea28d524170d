"""The blocks' matrices in the compute type, cast once a step: each micro-batch would cast them again.

The float32 masters stay what the optimiser, the checkpoint and everybody else see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from danlu.model import Model


@contextmanager
def cast_once(module: nn.Module) -> Iterator[None]:
    """Let a model compute with copies of its matrices in its compute type while the block runs.

    A gradient of a copy is added to its master's, in the master's type, as soon as a backward has made it: sums over
    micro-batches are those of a cast in every forward. Nothing happens to a model that computes in float32.
    """
    model = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped
    if not isinstance(model, Model) or model.compute_dtype == torch.float32:
        yield
        return
    masters = [(*_place(model, name), weight) for name, weight in model.matrix_parameters()]
    storages: dict[int, Tensor] = {}
    for owner, name, weight in masters:
        copy = nn.Parameter(_copy(weight.detach(), model.compute_dtype, storages), weight.requires_grad)
        if weight.requires_grad:
            copy.register_post_accumulate_grad_hook(_adds_to(weight))
        owner._parameters[name] = copy
    try:
        yield
    finally:
        for owner, name, weight in masters:
            owner._parameters[name] = weight


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    prefix, _, last = name.rpartition(".")
    return model.get_submodule(prefix), last


def _copy(weight: Tensor, dtype: torch.dtype, storages: dict[int, Tensor]) -> Tensor:
    """Cast the storage that a weight lies in, unless that is done: weights side by side stay so."""
    where = weight.untyped_storage()
    if where.data_ptr() not in storages:
        whole = weight.as_strided((where.nbytes() // weight.element_size(),), (1,), 0)
        storages[where.data_ptr()] = whole.to(dtype)
    return storages[where.data_ptr()].as_strided(weight.shape, weight.stride(), weight.storage_offset())


def _adds_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add(copy: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            master.grad = copy.grad.to(master.dtype)
        else:
            master.grad += copy.grad
        copy.grad = None

    return add
