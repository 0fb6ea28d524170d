"""What a run decides before its first step: batches halved where the budget is small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_trainer import stopped_after
from tiny_run import assert_same_run, settings

from danlu import train
from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.train import schedule, start
from danlu.train.devices import Machine

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
    tokens = len(shards.split("train")) // 200
    tables = {**LARGE, "schedule": {"least_steps": tokens // 64}}
    done = train(settings(shards_folder, tmp_path / "run", "0.005 epochs", **tables))
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


@pytest.mark.parametrize(
    ("told", "packing", "expected"),
    [("auto", "packed", True), ("auto", "padded", False), (True, "packed", True), (False, "packed", False)],
)
def test_documents_are_kept_apart_where_that_costs_nothing(shards_folder, tmp_path, told, packing, expected):
    done = train(settings(shards_folder, tmp_path / "run", "2 steps", document_mask=told, packing=packing))
    assert [v["batches"]["document_mask"] for v in plan_of(done["run"])["versions"]] == [expected]


def test_on_an_accelerator_documents_are_not_kept_apart():
    config, machine = check(TrainConfig, {}, "test"), Machine("cuda", "bf16", 1, 1e12)
    assert start.masks_for_nothing(config, replace(machine, device="cpu"))
    assert not start.masks_for_nothing(config, machine)


def test_resume_keeps_documents_apart_as_they_were(shards_folder, tmp_path, monkeypatch):
    straight = train(settings(shards_folder, tmp_path / "a", document_mask="auto"))
    config = settings(shards_folder, tmp_path / "b", document_mask="auto")
    stopped_after(monkeypatch, config, 5)
    monkeypatch.setattr(start, "masks_for_nothing", lambda config, machine: False)  # as if on another machine
    assert_same_run(straight, train(config, resume=True))
    assert_same_run(straight, train(settings(shards_folder, tmp_path / "c", document_mask=True)))


def test_a_run_goes_on_that_began_before_its_preset_had_a_setting(
    shards_folder, tmp_path, monkeypatch, smaller_batches
):
    """What the preset says today is not what the run was begun with."""
    tables = {**LARGE, "preset": "small-25m", "schedule": {**LARGE["schedule"], "least_steps": 0}}
    config = settings(shards_folder, tmp_path / "run", "3839 tokens", **tables)
    stopped_after(monkeypatch, config, 5)
    run_toml, plan_json = tmp_path / "run" / "run.toml", tmp_path / "run" / "plan.json"
    run_toml.write_text(run_toml.read_text().replace("least_steps = 0\n", ""))
    plan = plan_of(tmp_path / "run")
    del plan["halvings"]
    plan_json.write_text(json.dumps(plan))
    tables = read_tables(str(tmp_path / "run"))
    assert "least_steps" not in tables["schedule"]
    assert train(check(TrainConfig, tables, "run.toml"), resume=True)["finished"]


def test_a_preset_for_long_runs_suits_short_ones():
    """Of small-25m: minutes, hours, days of a machine that reads a thousand tokens a second."""
    config = check(TrainConfig, read_tables("small-25m"), "small-25m")
    times = [schedule.halvings(config, tokens) for tokens in (60e3, 1e6, 2e6, 1e8)]
    assert [schedule.halved(config, n).batch_tokens for n in times] == [2048, 4096, 8192, 16384]
    assert schedule.halvings(check(TrainConfig, read_tables("nano"), "nano"), 1.0) == 0
