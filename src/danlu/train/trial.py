"""Steps made and taken back before the first: how long one takes, and how much fits into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from danlu.config import TrainConfig
from danlu.data import batches
from danlu.data.batches import Blocks
from danlu.errors import ConfigError
from danlu.model import Model
from danlu.model.layers import Attention
from danlu.train import schedule
from danlu.train.objectives import Objective
from danlu.train.optim import Optimizer
from danlu.train.step import accumulate, split, train_step
from danlu.types import Batch, BatchPlan

_CPU_MICRO_BATCH_TOKENS = 2048
_SECONDS_WORTH_COMPILING = 600.0
_ROUNDS = 3
_AS_FAST = 1.05
_COMPARED_TOKENS = 1024


def worth_compiling(seconds: float) -> bool:
    """Tell whether a run of so many seconds may win back what compiling takes: at least ten minutes."""
    return seconds >= _SECONDS_WORTH_COMPILING


def compiling_pays(eager_seconds: float, steps: int, compiled_seconds: Callable[[], float]) -> bool:
    """Decide whether a run of `steps` is compiled: tried only where it would take ten minutes without.

    Compiling itself takes about one; what the trial has compiled, the run goes on with. Where no compiler works, no.
    """
    if not worth_compiling(eager_seconds * steps):
        return False
    try:
        return compiled_seconds() < eager_seconds
    except RuntimeError:
        return False


@dataclass(frozen=True)
class Trial:
    """Makes whole steps on the last stretch's batch, the run's largest; gives weights and state back as they were."""

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    blocks: Blocks
    config: TrainConfig
    device: torch.device

    @property
    def batches(self) -> BatchPlan:
        """Return a plan short enough that every stretch has a step."""
        return schedule.batch_plan(self.config, 2 + len(self.config.schedule.stretches))

    def micro_batch_tokens(self) -> int:
        """Choose how many tokens are computed at once: as configured, or on an accelerator the most that fit.

        Raises ConfigError where not even one row fits.
        """
        tokens = self.config.batch_tokens
        if self.config.device.micro_batch_tokens:
            return self.config.device.micro_batch_tokens
        if self.device.type == "cpu":
            most = 0 if self.config.adapter == "lora" else _CPU_MICRO_BATCH_TOKENS  # small gradients: cheap to sum
            return min(tokens, max(self.config.context, most))
        while True:
            try:
                self.seconds(tokens)
                return tokens
            except torch.OutOfMemoryError:
                if tokens <= self.config.context:
                    raise ConfigError(
                        f"one row of {self.config.context:,} tokens does not fit into the memory of "
                        f"{self.device.type}. Lower context or the model's size"
                    ) from None
                tokens //= 2

    def prefers_fused(self) -> bool:
        """Compare forward and backward of some rows by the model's attention kernel and by `fused`, in turn.

        It is taken even where it is a twentieth slower, for it needs less memory; not where it cannot be compiled.
        """
        model = cast(Model, self.model)
        before, part = model.attention, next(self._parts(_COMPARED_TOKENS))
        seconds: dict[Attention, list[float]] = {before: [], "fused": []}
        try:
            for _ in range(1 + _ROUNDS):
                for kernel, taken in seconds.items():
                    model.attention = kernel
                    start = time.perf_counter()
                    accumulate(model, self.objective, [part], 1)
                    taken.append(time.perf_counter() - start)
                    self.optimizer.zero_grad()
        except (RuntimeError, OSError, MemoryError):
            return False
        finally:
            model.attention = before
            self.optimizer.zero_grad()
        return min(seconds["fused"][1:]) <= _AS_FAST * min(seconds[before][1:])

    def seconds(self, micro_batch_tokens: int) -> float:
        """Make two steps, updates included, and return the second's seconds."""
        taken = 0.0
        learning = [p for p in self.model.parameters() if p.requires_grad]
        weights = [p.detach().clone() for p in learning]
        try:
            for _ in range(2):
                parts = self._parts(micro_batch_tokens)
                start = time.perf_counter()
                train_step(self.model, self.optimizer, self.objective, parts, 1, 1.0)
                taken = time.perf_counter() - start
        finally:
            self.optimizer.reset()
            with torch.no_grad():
                for parameter, before in zip(learning, weights, strict=True):
                    parameter.copy_(before)
        return taken

    def _parts(self, tokens: int) -> Iterator[Batch]:
        """Cut the last stretch's first batch into micro-batches of so many tokens."""
        stretch = self.batches.stretches[-1]
        batch = self.objective.collate(batches.batch(self.blocks, self.batches, self.config.seed, stretch.start))
        return split(batch, max(1, tokens // stretch.window), self.device)
