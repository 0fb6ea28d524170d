"""The plan of a run: what was decided at the start and at each revision, recorded before it takes effect.

`plan.json` in the run folder holds the machine and every version; a checkpoint holds a copy. Step N's batch
and rate follow from (plan, seed, N), so a resumed run repeats what an uninterrupted one would have done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from danlu import storage
from danlu.config import Budget, TrainConfig
from danlu.errors import CheckpointError, ConfigError
from danlu.train import schedule
from danlu.train.budget import EVENTS_IN_A_RUN
from danlu.train.devices import Machine
from danlu.types import BatchPlan, Stretch

PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Version:
    """From step `from_step` on: how many steps the run has, which batches they see, and why."""

    from_step: int
    total_steps: int
    batches: BatchPlan
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The machine's settings, the versions in the order they were made, and how many evaluations a run has.

    `events` (evaluations, checkpoints) counts where their distance is not configured; it changes no weight.
    `halvings` tells how often the configured batches were halved, so that a small budget has enough steps.
    """

    machine: Machine
    versions: tuple[Version, ...]
    events: int = EVENTS_IN_A_RUN
    halvings: int = 0

    def at(self, step: int) -> Version:
        """Return the version in force at `step`, counted from 0."""
        return next(v for v in reversed(self.versions) if v.from_step <= step)

    def has_version_from(self, step: int) -> bool:
        """Tell whether a revision was recorded for `step`, or for a later one."""
        return self.versions[-1].from_step >= step

    def revised(self, config: TrainConfig, step: int, total_steps: int, why: str) -> Plan:
        """Add a version from `step` on."""
        batches = schedule.batch_plan(config, total_steps, self.at(step).batches, step)
        return replace(self, versions=(*self.versions, Version(step, total_steps, batches, why)))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return asdict(self)


def first_plan(config: TrainConfig, machine: Machine, total_steps: int, why: str, halvings: int = 0) -> Plan:
    """Make a run's first plan, of batches halved already. Raises ConfigError where the warm-up does not fit into it."""
    if config.schedule.shape in ("linear", "cosine") and config.schedule.warmup_steps >= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps {config.schedule.warmup_steps:,} is no shorter than the run of "
            f"{total_steps:,} steps. Lower it, or raise the budget"
        )
    version = Version(0, total_steps, schedule.batch_plan(config, total_steps), why)
    return Plan(machine, (version,), halvings=halvings)


def plan_from_json(value: dict[str, Any], where: str) -> Plan:
    """Read `as_json`'s value back. Raises CheckpointError where it is something else."""
    try:
        versions = tuple(
            Version(
                v["from_step"],
                v["total_steps"],
                BatchPlan(**{**v["batches"], "stretches": tuple(Stretch(**s) for s in v["batches"]["stretches"])}),
                v["why"],
            )
            for v in value["versions"]
        )
        return Plan(Machine(**value["machine"]), versions, value["events"], value.get("halvings", 0))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: is no plan of this version of danlu ({error})") from None


def save_plan(run: Path, plan: Plan) -> None:
    """Record the plan durably."""
    storage.write_json(run / PLAN, plan.as_json())


def load_plan(run: Path) -> Plan | None:
    """Read a run's plan; None where it has none yet."""
    path = run / PLAN
    return plan_from_json(storage.read_json(path, CheckpointError), str(path)) if path.is_file() else None


def steps_for(budget: Budget, config: TrainConfig, blocks_per_epoch: int) -> int:
    """Turn a budget of steps, tokens or epochs into steps (at least 1), stretches' batch sizes counted in.

    Tokens are positions: in padded rows the filled ones count too.
    """
    if budget.unit == "steps":
        return max(1, round(budget.amount))
    wanted = budget.amount * (blocks_per_epoch * config.context if budget.unit == "epochs" else 1)
    total = max(1, round(wanted / config.batch_tokens))
    while schedule.batch_plan(config, total + 1).tokens_before(total + 1) <= wanted:
        total += max(1, total // 100)
    while total > 1 and schedule.batch_plan(config, total).tokens_before(total) > wanted:
        total -= 1
    if budget.unit == "epochs" and schedule.batch_plan(config, total).tokens_before(total) < wanted:
        total += 1
    return total
