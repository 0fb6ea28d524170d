"""A budget in minutes, kept: steps are timed, minutes become steps, and the decay ends on time.

The clock only ever decides *revisions* of the plan, and only before the decay begins; what a step does
follows from the recorded plan alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque

from danlu.config import ScheduleConfig
from danlu.train import schedule

EVENTS_IN_A_RUN = 10
_SHARE_OF_EVENTS = 0.1
_RECENT_STEPS = 50
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
        self._taken: deque[float] = deque(maxlen=_RECENT_STEPS)

    def events_that_fit(self, seconds: float) -> int:
        """Count the evaluations of `seconds` each that a run can afford: at most ten, a tenth of its time."""
        return max(1, min(EVENTS_IN_A_RUN, int(_SHARE_OF_EVENTS * self.seconds / max(seconds, 1e-3))))

    def took(self, seconds: float) -> None:
        """Note how long a step took, evaluations and checkpoints left out."""
        self._taken.append(seconds)

    def steps_left(self, seconds_per_step: float, reserve: float = 0.0) -> int:
        """Count the steps that fit into what is left, less `reserve` seconds for what else is to come."""
        return max(1, int((self.seconds - reserve - self.clock.seconds) / seconds_per_step))

    def revision(self, config: ScheduleConfig, step: int, total_steps: int, reserve: float) -> int | None:
        """Return a better number of steps for the run, if it is time to revise, and None otherwise.

        `step` updates are done. Nothing is revised once the decay has begun; none begins in the past.
        """
        last = schedule.decay_start(config, total_steps) - 1
        due = {math.ceil(total_steps * share) for share in _REVISE_AT} | {last}
        if step not in due or step > last or not self._taken:
            return None
        total = step + self.steps_left(statistics.median(self._taken), reserve)
        while schedule.decay_start(config, total) < step:
            total += 1 + (step - schedule.decay_start(config, total)) // 2
        if abs(total - total_steps) <= _WORTH_RECORDING * total_steps:
            return None
        return total
