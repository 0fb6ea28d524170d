"""The learning rate and the batches as functions of the step and the recorded plan, never of the clock."""

from __future__ import annotations

import math

from danlu.config import ScheduleConfig, TrainConfig
from danlu.types import BatchPlan, Stretch

_FEWEST_TOKENS = 2048


def decay_start(schedule: ScheduleConfig, total_steps: int) -> int:
    """Return the first step whose rate lies below the peak for good."""
    if schedule.shape == "constant":
        return total_steps
    if schedule.shape == "wsd":
        return max(warmup(schedule, total_steps), total_steps - math.ceil(schedule.decay * total_steps))
    return warmup(schedule, total_steps)


def warmup(schedule: ScheduleConfig, total_steps: int) -> int:
    """Return the steps of warm-up: as configured, but no more than a tenth of the run with wsd.

    With other shapes it is half of the run where a revision has made that shorter than the warm-up.
    """
    if schedule.shape == "wsd":
        return min(schedule.warmup_steps, max(1, total_steps // 10))
    return schedule.warmup_steps if schedule.warmup_steps < total_steps else total_steps // 2


def rate_factor(schedule: ScheduleConfig, total_steps: int, step: int) -> float:
    """Return the share of the peak rate for update `step`, counted from 0.

    Warm-up rises linearly from 0 (linear and cosine, as transformers' schedules do: step 0 has rate 0) or
    from 1 / warm-up (wsd, so that no step is lost); the decay ends at `floor`.
    """
    rise = warmup(schedule, total_steps)
    if schedule.shape == "wsd" and step < rise:
        return (step + 1) / rise
    if step < rise:
        return step / rise
    start = decay_start(schedule, total_steps)
    if step < start or total_steps <= start:
        return 1.0
    done = min(1.0, (step - start) / (total_steps - start))
    shape = (1 + math.cos(math.pi * done)) / 2 if schedule.shape == "cosine" else 1 - done
    return schedule.floor + (1 - schedule.floor) * shape


def halvings(config: TrainConfig, tokens: float) -> int:
    """Count how often batches must be halved for `tokens` to make the wanted steps, as far as halving goes."""
    wanted = config.schedule.least_steps
    for times in range(64):
        smaller = halved(config, times)
        too_many = batch_plan(smaller, wanted).tokens_before(wanted) > tokens
        if not too_many or smaller == halved(config, times + 1):
            return times
    raise AssertionError("batches are halved without end")


def halved(config: TrainConfig, times: int) -> TrainConfig:
    """Return settings with smaller batches: whole rows, and no fewer tokens than 2,048 (or than there were)."""

    def smaller(tokens: int) -> int:
        fewest = min(tokens, -(-_FEWEST_TOKENS // config.context) * config.context)
        return max(fewest, (tokens >> times) // config.context * config.context)

    stretches = tuple(s.model_copy(update={"batch_tokens": smaller(s.batch_tokens)}) for s in config.schedule.stretches)
    schedule = config.schedule.model_copy(update={"stretches": stretches})
    return config.model_copy(update={"batch_tokens": smaller(config.batch_tokens), "schedule": schedule})


def batch_plan(config: TrainConfig, total_steps: int, before: BatchPlan | None = None, at_step: int = 0) -> BatchPlan:
    """Lay the configured stretches over `total_steps`.

    With `before` (a revision at `at_step`) what lies behind stays as it was: a boundary in the past does not
    move, and none moves into the past.
    """
    sizes = [(s.window, s.batch_tokens) for s in config.schedule.stretches] + [(config.context, config.batch_tokens)]
    starts = [0] + [max(1, round(s.until * total_steps)) for s in config.schedule.stretches]
    if before is not None:
        old = [s.start for s in before.stretches]
        starts = [was if was <= at_step else max(now, at_step) for was, now in zip(old, starts, strict=True)]
    stretches = tuple(Stretch(start, *size) for start, size in zip(starts, sizes, strict=True))
    return BatchPlan(config.context, stretches, config.packing, config.document_mask is True)
