"""Objectives: what a batch's loss is. One class each; the trainer, the step and the run folder are shared.

An objective answers three questions: which extra tensors a batch needs (`collate`), how many scored tokens it
holds (`count`, the divisor over the whole global batch), and its summed loss in nats (`loss`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from danlu.types import IGNORED, Batch

Metrics = Mapping[str, float]


class Objective(Protocol):
    """What the trainer asks of an objective. Sums, not means: accumulating ragged batches is exact."""

    def collate(self, batch: Batch) -> Batch:
        """Add the tensors this objective needs (`Batch.extras`), on the CPU, before the batch travels."""
        ...

    def count(self, batch: Batch) -> int:
        """Count what the summed loss is divided by, known before the tensors travel."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the summed loss in nats (a scalar with its graph) and further figures to log."""
        ...


class NextToken:
    """Cross-entropy of the next token, in nats: pretraining."""

    def collate(self, batch: Batch) -> Batch:
        """Return the batch as it is."""
        return batch

    def count(self, batch: Batch) -> int:
        """Count the scored tokens."""
        return int((batch.labels_BT != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Sum the per-token losses of one forward."""
        out = model(batch.ids_BT, segments=batch.segments_BT, labels=batch.labels_BT)
        total = out.nll_BT.sum()
        return (total if out.aux is None else total + out.aux), {}
