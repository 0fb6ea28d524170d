"""One update: forward, backward, clip, update. No I/O, no logging; it returns what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.train.casts import cast_once
from danlu.train.objectives import Objective
from danlu.train.optim import Optimizer
from danlu.types import Batch


@dataclass(frozen=True, slots=True)
class StepResult:
    """Mean loss in nats, gradient norm before clipping, whether the update was skipped, the objective's figures."""

    loss: float
    grad_norm: float
    skipped: bool
    metrics: Mapping[str, float]


def split(batch: Batch, rows: int, device: torch.device) -> Iterator[Batch]:
    """Cut a batch into micro-batches of `rows` rows (the last may have fewer) on `device`."""
    for start in range(0, batch.ids_BT.shape[0], rows):

        def part(tensor: Tensor, start: int = start) -> Tensor:
            return tensor[start : start + rows].to(device, non_blocking=True)

        yield Batch(
            part(batch.ids_BT),
            part(batch.labels_BT),
            None if batch.segments_BT is None else part(batch.segments_BT),
            {name: part(tensor) for name, tensor in batch.extras.items()},
        )


def accumulate(
    model: nn.Module, objective: Objective, batches: Iterator[Batch] | Sequence[Batch], count: int
) -> dict[str, Tensor]:
    """Add the gradients of loss / `count` over the micro-batches; return that `loss`, and metrics, as scalars.

    `count` is the objective's count of the whole global batch, so the sum over ragged micro-batches equals one big
    batch.
    """
    totals: dict[str, Tensor] = {}
    with cast_once(model):
        for batch in batches:
            loss, metrics = objective.loss(model, batch)
            (loss / count).backward()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] = totals.get(name, 0) + value / count
    return totals


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    batches: Iterator[Batch] | Sequence[Batch],
    count: int,
    clip: float,
) -> StepResult:
    """Update the model once; skip it if loss or gradient is not finite (one host synchronisation).

    `clip` bounds the global gradient norm; 0 leaves the gradient as it is.
    """
    totals = accumulate(model, objective, batches, count)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf)
    loss, *metrics, grad_norm = torch.stack([*totals.values(), norm.to(totals["loss"].device)]).tolist()
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    figures = dict(zip(list(totals)[1:], metrics, strict=True))
    return StepResult(loss=loss, grad_norm=grad_norm, skipped=not finite, metrics=figures)
