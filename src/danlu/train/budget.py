"""A budget in minutes, kept: steps are timed, minutes become steps, and the decay ends on time.

The clock only ever decides *revisions* of the plan, and only before the decay begins; what a step does
follows from the recorded plan alone.
"""

from __future__ import annotations

import time

from danlu.config import ScheduleConfig
from danlu.train import schedule

_REVISE_AT = (0.02, 0.05, 0.1, 0.2, 0.35, 0.45)
_WORTH_RECORDING = 0.005


class Clock:
    """Counts a run's seconds over interruptions: those spent before the last resume, and those since."""

    def __init__(self, spent: float = 0.0, started: float | None = None):
        self._before = spent
        self._started = time.monotonic() if started is None else started

    @property
    def seconds(self) -> float:
        """Return the seconds spent on this run."""
        return self._before + time.monotonic() - self._started


class TimeBudget:
    """Turns the minutes of a run into its number of steps."""

    def __init__(self, minutes: float, clock: Clock):
        self.seconds, self.clock = minutes * 60, clock
        self._mark: tuple[int, float] | None = None
        self.reserve = 0.0

    def begin(self, step: int) -> None:
        """Start timing steps from `step` on."""
        self._mark = (step, self.clock.seconds)

    def steps_left(self, seconds_per_step: float) -> int:
        """Count the steps that fit into what is left, less the reserve for the last evaluation."""
        return max(1, int((self.seconds - self.reserve - self.clock.seconds) / seconds_per_step))

    def revision(self, config: ScheduleConfig, step: int, total_steps: int) -> int | None:
        """Return a better number of steps for the run, if it is time to revise, and None otherwise.

        `step` updates are done. Nothing is revised once the decay has begun; none begins in the past.
        """
        due = {round(total_steps * share) for share in _REVISE_AT} | {schedule.decay_start(config, total_steps) - 1}
        if step not in due or self._mark is None or step <= self._mark[0]:
            return None
        if step >= schedule.decay_start(config, total_steps):
            return None
        first, since = self._mark
        total = step + self.steps_left((self.clock.seconds - since) / (step - first))
        while total > step + 1 and schedule.decay_start(config, total) < step and config.shape == "wsd":
            total += max(1, (step - schedule.decay_start(config, total)) // 2)
        if abs(total - total_steps) <= _WORTH_RECORDING * total_steps:
            return None
        return total
