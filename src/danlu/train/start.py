"""A run's first plan: what is decided before the first step, by trials and estimates. A resumed run keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from danlu import log
from danlu.config import TrainConfig, parse_budget
from danlu.errors import ConfigError
from danlu.model import Model, blas
from danlu.train import devices, plan, schedule
from danlu.train.budget import TimeBudget
from danlu.train.devices import Machine
from danlu.train.trial import Trial, compiling_pays, worth_compiling

_EXPECTED_SHARE = {True: 0.7, False: 0.2}
"""Of the speed of large matrix products, in whole steps: on a CPU, and elsewhere."""


def decide(trial: Trial, machine: Machine, time_budget: TimeBudget | None) -> tuple[plan.Plan, nn.Module]:
    """Decide on batches, kernels and steps; return the plan, and the model as it is to compute.

    Raises ConfigError where the warm-up does not fit into the run, or not even one row into memory.
    """
    halvings = _halvings(trial, machine)
    trial = replace(trial, config=schedule.halved(trial.config, halvings))
    machine = replace(machine, micro_batch_tokens=trial.micro_batch_tokens())
    if _worth_fusing(trial, machine, time_budget):
        machine = _perhaps_fused(trial, machine)
    devices.require_blas(machine, trial.config.device)
    total, seconds = _total_steps(trial, machine, time_budget)
    if trial.config.device.compile == "auto" and trial.device.type != "cpu":
        seconds = seconds or trial.seconds(machine.micro_batch_tokens)
        faster = replace(trial, model=compiled(trial.model))
        if compiling_pays(seconds, total, lambda: faster.seconds(machine.micro_batch_tokens)):
            trial, machine = faster, replace(machine, compile=True)
            total, seconds = _total_steps(trial, machine, time_budget)
    why = f"a dry run took {seconds:.3f} s a step" if time_budget else f"budget {trial.config.budget}"
    return plan.first_plan(trial.config, machine, total, why, halvings), trial.model


def machine_for(model: Model, config: TrainConfig) -> Machine:
    """Probe the machine, and settle what the model and the settings allow.

    Raises ConfigError where numpy's products are asked for, and this run could not take them.
    """
    machine = devices.probe(config.device, config.context)
    chosen = suited(model, config, machine)
    if config.device.attention == machine.attention != chosen.attention:
        log.say(f"device.attention {machine.attention}: is nothing for this run, which takes {chosen.attention}")
    able = machine.device == "cpu" and suited(model, config, replace(machine, attention="fused")).attention == "fused"
    if config.device.blas == "numpy" and not able:
        raise ConfigError("device.blas numpy: is for device.attention fused, which this run cannot take. Leave it out")
    return devices.fused(chosen, config.device) if chosen.attention == "fused" else chosen


def _perhaps_fused(trial: Trial, machine: Machine) -> Machine:
    """Have the model take the kernel `fused`, and the machine say so, if a trial is for it."""
    fused = devices.fused(machine, trial.config.device)
    blas.use(fused.blas)
    if not trial.prefers_fused():
        blas.use(machine.blas)
        return machine
    cast(Model, trial.model).attention = fused.attention
    return fused


def compiled(model: nn.Module) -> nn.Module:
    """Return a model that torch.compile will compile when it computes."""
    return cast(nn.Module, torch.compile(model, dynamic=False))


def _halvings(trial: Trial, machine: Machine) -> int:
    """Decide how often batches are halved: a small budget needs enough steps more than it needs large batches."""
    config = trial.config
    tokens = _expected_tokens(trial, machine)
    times = 0 if tokens is None else schedule.halvings(config, tokens)
    if times:
        log.say(
            f"batches of up to {schedule.halved(config, times).batch_tokens:,} tokens, not {config.batch_tokens:,}: "
            f"the budget is about {tokens:,.0f} tokens, and schedule.least_steps {config.schedule.least_steps:,}"
        )
    return times


def _expected_tokens(trial: Trial, machine: Machine) -> float | None:
    """Estimate how many tokens the budget has; None where it is a number of steps, of whatever size."""
    budget = parse_budget(trial.config.budget)
    if budget.unit == "minutes":
        return budget.amount * 60 * _expected_speed(trial, machine)
    if budget.unit == "epochs":
        return budget.amount * trial.blocks.blocks_per_epoch(trial.batches) * trial.config.context
    return budget.amount if budget.unit == "tokens" else None


def _expected_speed(trial: Trial, machine: Machine) -> float:
    """Estimate tokens a second."""
    flops = cast(Model, trial.model).flops_per_token(trial.config.context)
    return _EXPECTED_SHARE[trial.device.type == "cpu"] * machine.gemm_flops / flops


def masks_for_nothing(config: TrainConfig, machine: Machine) -> bool:
    """Tell whether keeping documents apart costs no time: an accelerator's fast kernels take no mask."""
    return machine.device == "cpu" and config.packing == "packed"


def suited(model: Model, config: TrainConfig, machine: Machine) -> Machine:
    """Return the machine with a kernel that does for this run what it is for.

    `fused` is not for the article's family, adapters, and what torch.compile fuses. Where sums of log-probabilities
    are compared with a reference's, computed without gradients, both take one kernel: rounding would make a difference.
    """
    if config.objective == "dpo":
        return replace(machine, attention="sdpa", blas="torch")
    return machine if model.fusible and not machine.compile else machine.unfused()


def _worth_fusing(trial: Trial, machine: Machine, time_budget: TimeBudget | None) -> bool:
    """Tell whether the kernel `fused` is to be tried: where a run that is long enough has the choice."""
    free = trial.device.type == "cpu" and trial.config.device.attention == "auto"
    fused = replace(machine, attention="fused")
    if not free or suited(cast(Model, trial.model), trial.config, fused) != fused:
        return False
    if time_budget is not None:
        seconds = time_budget.seconds
    else:
        total, _ = _total_steps(trial, machine, None)
        seconds = schedule.batch_plan(trial.config, total).tokens_before(total) / _expected_speed(trial, machine)
    return worth_compiling(seconds) and devices.can_fuse()


def _total_steps(trial: Trial, machine: Machine, time_budget: TimeBudget | None) -> tuple[int, float]:
    """Return the run's steps, and the seconds of one where the budget is a time (else 0)."""
    if time_budget is None:
        per_epoch = trial.blocks.blocks_per_epoch(trial.batches)
        return plan.steps_for(parse_budget(trial.config.budget), trial.config, per_epoch), 0.0
    seconds = trial.seconds(machine.micro_batch_tokens)
    return time_budget.steps_left(seconds), seconds
