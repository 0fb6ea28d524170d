"""What a run decides before its first step: batches halved where the budget is small."""

import json
from pathlib import Path

import pytest
from test_trainer import stopped_after
from tiny_run import assert_same_run, settings

from danlu import train
from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.train import schedule, start

LARGE = {
    "batch_tokens": 512,
    "schedule": {"least_steps": 20, "stretches": [{"until": 0.5, "window": 16, "batch_tokens": 256}]},
}


@pytest.fixture
def smaller_batches(monkeypatch):
    """Let batches of a tiny run be halved down to 64 tokens."""
    monkeypatch.setattr(schedule, "_FEWEST_TOKENS", 64)


def plan_of(run):
    return json.loads((Path(run) / "plan.json").read_text())


def sizes(plan):
    return [s["batch_tokens"] for s in plan["versions"][-1]["batches"]["stretches"]]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("1 steps", [256, 512]),  # so it was asked for
        ("20000 tokens", [256, 512]),
        ("7000 tokens", [128, 256]),
        ("3840 tokens", [128, 256]),
        ("3839 tokens", [64, 128]),
        ("100 tokens", [64, 64]),  # no smaller than this
    ],
)
def test_batches_are_halved_until_the_budget_has_enough_steps(
    shards_folder, tmp_path, smaller_batches, capsys, budget, expected
):
    done = train(settings(shards_folder, tmp_path / "run", budget, **LARGE))
    assert sizes(plan_of(done["run"])) == expected
    assert ("least_steps" in capsys.readouterr().err) == (expected != [256, 512])
    if "tokens" in budget and expected != [64, 64]:
        assert done["step"] >= 20


def test_an_epoch_counts_as_its_tokens(shards_folder, shards, tmp_path, smaller_batches):
    tokens = len(shards.split("train"))
    tables = {**LARGE, "schedule": {"least_steps": tokens // 64}}
    done = train(settings(shards_folder, tmp_path / "run", "1 epochs", **tables))
    assert sizes(plan_of(done["run"])) == [64]


def test_a_time_counts_as_what_the_machine_can_compute_in_it(shards_folder, tmp_path, smaller_batches, monkeypatch):
    for speed, halvings in ((1e9, 0), (1.0, 3)):
        monkeypatch.setattr(start, "_expected_speed", lambda trial, machine, speed=speed: speed)
        done = train(settings(shards_folder, tmp_path / str(speed), "0.02 min", **LARGE))
        assert plan_of(done["run"])["halvings"] == halvings


def test_resume_keeps_the_batches(shards_folder, tmp_path, smaller_batches, monkeypatch):
    straight = train(settings(shards_folder, tmp_path / "a", "3839 tokens", **LARGE))
    config = settings(shards_folder, tmp_path / "b", "3839 tokens", **LARGE)
    stopped_after(monkeypatch, config, 15)
    monkeypatch.setattr(schedule, "halvings", lambda config, tokens: 0)  # as if it would now be decided otherwise
    assert_same_run(straight, train(config, resume=True))


def test_a_preset_for_long_runs_suits_short_ones():
    """Of small-25m: minutes, hours, days of a machine that reads a thousand tokens a second."""
    config = check(TrainConfig, read_tables("small-25m"), "small-25m")
    found = [
        schedule.halved(config, schedule.halvings(config, tokens)).batch_tokens for tokens in (60e3, 7e5, 1e6, 1e8)
    ]
    assert found == [2048, 8192, 16384, 16384]
    assert schedule.halvings(check(TrainConfig, read_tables("nano"), "nano"), 1.0) == 0
