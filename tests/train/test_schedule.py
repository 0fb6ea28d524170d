"""Rates and batches are functions of the step and the plan."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from danlu.config import Budget, ScheduleConfig, StretchConfig, TrainConfig
from danlu.errors import ConfigError
from danlu.train import plan, schedule
from danlu.train.budget import Clock, TimeBudget
from danlu.train.devices import Machine

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "blog_tiny.json"
MACHINE = Machine("cpu", "fp32", 1, 1e9, 512)


def test_linear_equals_the_articles_schedule():
    config = ScheduleConfig(shape="linear", warmup_steps=3)
    expected = json.loads(GOLDEN.read_text())["lrs"]
    assert [0.005 * schedule.rate_factor(config, 24, s) for s in range(24)] == pytest.approx(expected, abs=1e-12)


def test_wsd_rises_holds_and_ends_at_the_floor():
    config = ScheduleConfig(shape="wsd", warmup_steps=10, decay=0.4, floor=0.1)
    rates = [schedule.rate_factor(config, 100, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert all(a > b for a, b in pairwise(rates[60:]))
    assert rates[100] == pytest.approx(0.1)


def test_cosine_ends_at_the_floor():
    config = ScheduleConfig(shape="cosine", warmup_steps=0, floor=0.0)
    assert schedule.rate_factor(config, 10, 5) == pytest.approx(0.5)
    assert schedule.rate_factor(config, 10, 10) == pytest.approx(0.0)


def stretched() -> TrainConfig:
    stretches = (
        StretchConfig(until=0.2, window=128, batch_tokens=512),
        StretchConfig(until=0.5, window=256, batch_tokens=1024),
    )
    return TrainConfig(context=512, batch_tokens=2048, schedule=ScheduleConfig(stretches=stretches))


def test_stretches_begin_at_their_shares():
    batches = schedule.batch_plan(stretched(), 100)
    assert [(s.start, s.window, s.batch_tokens) for s in batches.stretches] == [
        (0, 128, 512),
        (20, 256, 1024),
        (50, 512, 2048),
    ]
    assert batches.tokens_before(100) == 20 * 512 + 30 * 1024 + 50 * 2048


def test_a_revision_leaves_the_past_as_it_was():
    first = plan.first_plan(stretched(), MACHINE, 100, "start")
    for step in (10, 20, 30, 49):
        for total in (60, 90, 200):
            revised = first.revised(stretched(), step, total, "slower")
            batches = revised.at(step).batches
            assert batches.tokens_before(step) == first.at(step - 1).batches.tokens_before(step), (
                step,
                total,
            )
            assert revised.at(step - 1).total_steps == 100
            assert revised.at(step).total_steps == total


def test_a_plan_survives_json():
    made = plan.first_plan(stretched(), MACHINE, 100, "start").revised(stretched(), 30, 80, "slow")
    assert plan.plan_from_json(json.loads(json.dumps(made.as_json())), "here") == made


@pytest.mark.parametrize("amount", [1, 5000, 123_456, 1e6])
def test_a_token_budget_is_not_exceeded_but_by_less_than_a_step(amount):
    config = stretched()
    total = plan.steps_for(Budget(amount, "tokens"), config, blocks_per_epoch=100)
    used = schedule.batch_plan(config, total).tokens_before(total)
    assert used <= max(amount, 512)
    assert amount - used < 0.05 * amount + 4 * 2048


@pytest.mark.parametrize("epochs", [1, 2.5])
def test_an_epoch_budget_sees_every_block(epochs):
    config = TrainConfig(context=512, batch_tokens=2048)
    total = plan.steps_for(Budget(epochs, "epochs"), config, blocks_per_epoch=101)
    assert (total - 1) * 4 < epochs * 101 <= total * 4


def test_a_warm_up_longer_than_the_run_is_an_error():
    config = TrainConfig(schedule=ScheduleConfig(shape="linear", warmup_steps=1000))
    with pytest.raises(ConfigError, match=r"1,000.*300"):
        plan.first_plan(config, MACHINE, 300, "start")


class FakeClock(Clock):
    """A clock that is set by hand."""

    now = 0.0

    @property
    def seconds(self) -> float:
        return self.now


def simulate(seconds_per_step, minutes=1.0, guess=0.1, event=0.0):
    """Run a time budget against steps that take `seconds_per_step(step)`; return (seconds, totals)."""
    clock, config = FakeClock(), ScheduleConfig(shape="wsd", warmup_steps=5, decay=0.5)
    budget = TimeBudget(minutes, clock)
    events = budget.events_that_fit(event)
    total, totals, step = budget.steps_left(guess), [], 0
    while step < total:
        budget.took(seconds_per_step(step))
        clock.now += seconds_per_step(step)
        step += 1
        every = max(1, total // events)
        if step % every == 0 or step == total:
            clock.now += event
        new = budget.revision(config, step, total, event * (1 + (total - step) // every))
        if new is not None:
            assert schedule.decay_start(config, new) >= step
            assert step < schedule.decay_start(config, total)
            total = new
            totals.append(total)
    return clock.now, totals


@pytest.mark.parametrize("event", [0.3, 2.0, 7.0])
def test_slow_evaluations_are_fewer_and_do_not_break_the_budget(event):
    seconds, _ = simulate(lambda step: 0.1, event=event)
    assert seconds == pytest.approx(60, rel=0.08)


@pytest.mark.parametrize("true", [0.02, 0.1, 0.35])
def test_a_time_budget_ends_on_time_whatever_the_first_guess(true):
    seconds, totals = simulate(lambda step: true)
    assert seconds == pytest.approx(60, rel=0.03)
    assert len(totals) < 20


def test_a_time_budget_is_not_revised_without_need():
    assert simulate(lambda step: 0.1)[1] == []


def test_a_machine_that_slows_down_early_still_ends_near_its_time():
    seconds, _ = simulate(lambda step: 0.05 if step < 100 else 0.1)
    assert seconds == pytest.approx(60, rel=0.1)
