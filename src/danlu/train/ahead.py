"""The next step's batch, read while this one is computed: the accelerator need not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from danlu.types import Batch, BatchPlan

Read = Callable[[BatchPlan, int], Batch]
"""Makes the batch of (plan, step); draws no random numbers, since it runs beside the step before."""


class Ahead:
    """Answers with a step's batch and begins to read the one after it; in pinned memory where `pin` says so.

    A batch is a function of (plan, step): where the plan is revised, what was read ahead is thrown away.
    """

    def __init__(self, read: Read, pin: bool):
        self._read, self._pin = read, pin
        self._pool = ThreadPoolExecutor(1, "danlu-batches")
        self._key: tuple[BatchPlan, int] | None = None
        self._batch: Future[Batch] = Future()

    def batch(self, plan: BatchPlan, step: int) -> Batch:
        """Return the batch of `step`. Raises what reading it raised."""
        if self._key != (plan, step):
            self._begin(plan, step)
        batch = self._batch.result()
        self._begin(plan, step + 1)
        return batch

    def close(self) -> None:
        """End the thread, once it has finished what it reads."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, plan: BatchPlan, step: int) -> None:
        self._key, self._batch = (plan, step), self._pool.submit(self._make, plan, step)

    def _make(self, plan: BatchPlan, step: int) -> Batch:
        batch = self._read(plan, step)
        return _pinned(batch) if self._pin else batch


def _pinned(batch: Batch) -> Batch:
    def pin(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory()

    return replace(
        batch,
        ids_BT=pin(batch.ids_BT),
        labels_BT=pin(batch.labels_BT),
        segments_BT=None if batch.segments_BT is None else pin(batch.segments_BT),
        extras={name: pin(tensor) for name, tensor in batch.extras.items()},
    )
