"""The trainer: whole runs on tiny shards, stopped and resumed in every way, compared bit for bit."""

import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, assert_same_run, settings, weights

from danlu import log, storage
from danlu.checkpoint import load_model, newest_good
from danlu.cli import main
from danlu.commands.train_ import train
from danlu.configure import to_toml
from danlu.data.prepare import prepare
from danlu.errors import CheckpointError, ConfigError, DataError, OutputError, TokenizerError, TrainingError
from danlu.tokenizer import train_tokenizer
from danlu.types import Document


@pytest.fixture(scope="module")
def whole(shards_folder, tmp_path_factory):
    """An uninterrupted run of 10 steps."""
    return train(settings(shards_folder, tmp_path_factory.mktemp("runs") / "whole"))


def test_a_run_leaves_everything_behind(whole):
    run = Path(whole["run"])
    names = {
        "run.toml",
        "plan.json",
        "metrics.jsonl",
        "report.html",
        "summary.json",
        "data.json",
        "checkpoints",
    }
    assert names <= {p.name for p in run.iterdir()}
    assert (run / "latest").resolve() == Path(whole["checkpoint"]).resolve()
    assert (run / "best").exists()
    assert whole["finished"]
    assert (whole["step"], whole["tokens"], whole["resumed_at"]) == (10, 10 * 128, None)
    kinds = [row["kind"] for row in log.read_metrics(run)]
    assert kinds.count("train") == 10
    assert kinds.count("eval") == 4  # before the first step, after 4, 8 and the last
    assert kinds.count("sample") == 4
    assert "not finished" not in (run / "report.html").read_text()
    assert json.loads((run / "summary.json").read_text()) == whole


def test_the_loss_falls(whole):
    losses = [r["loss_nats_per_token"] for r in log.read_metrics(Path(whole["run"])) if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.2


def test_an_untrained_random_model_knows_nothing(shards_folder, tmp_path):
    train(settings(shards_folder, tmp_path / "run", "1 steps", embedding="random"))
    (first,) = [r["loss_nats_per_token"] for r in log.read_metrics(tmp_path / "run") if r["kind"] == "train"]
    assert first == pytest.approx(math.log(320), rel=0.05)


def test_the_same_settings_give_the_same_bits(whole, shards_folder, tmp_path):
    assert_same_run(whole, train(settings(shards_folder, tmp_path / "again")))


def test_another_seed_gives_other_bits(whole, shards_folder, tmp_path):
    other = train(settings(shards_folder, tmp_path / "other", seed=1))
    assert weights(other["checkpoint"]) != weights(whole["checkpoint"])


def test_old_checkpoints_go_and_the_best_stays(whole):
    kept = sorted(p.name for p in (Path(whole["run"]) / "checkpoints").iterdir())
    best = (Path(whole["run"]) / "best").resolve().name
    assert set(kept) == {"step-00000009", "step-00000010", best}


class Stop(Exception):
    """Raised to leave a run at a chosen point, as a crash would."""


def stopped_after(monkeypatch, config, step, error=Stop):
    """Run until `step` updates are done, then crash without saving."""
    from danlu.train.trainer import Trainer

    original = Trainer._step

    def crashing(self):
        if self.progress.step == step:
            raise error
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", crashing)
        with pytest.raises(error):
            train(config, resume=True)


@pytest.mark.parametrize(("step", "saved"), [(1, None), (3, 3), (5, 4), (8, 8)])
def test_resume_is_bit_exact(whole, shards_folder, tmp_path, monkeypatch, step, saved):
    """Checkpoints come every 3 steps, and after the best evaluation so far (every 4)."""
    config = settings(shards_folder, tmp_path / "run")
    stopped_after(monkeypatch, config, step)
    done = train(config, resume=True)
    assert done["resumed_at"] == saved
    assert_same_run(whole, done)


def test_a_second_resume_and_the_turn_of_an_epoch(shards_folder, shards, tmp_path, monkeypatch):
    steps = len(shards.split("train")) // 128 + 8
    budget = f"{steps} steps"
    straight = train(settings(shards_folder, tmp_path / "a", budget, checkpoint_every=5, eval_every=50))
    config = settings(shards_folder, tmp_path / "b", budget, checkpoint_every=5, eval_every=50)
    stopped_after(monkeypatch, config, 12)
    stopped_after(monkeypatch, config, steps - 4)
    done = train(config, resume=True)
    assert done["resumed_at"] > 12
    assert_same_run(straight, done)


def test_stretches_resume_too(shards_folder, tmp_path, monkeypatch):
    ramp = {"schedule": {"stretches": [{"until": 0.4, "window": 16, "batch_tokens": 64}]}}
    straight = train(settings(shards_folder, tmp_path / "a", **ramp))
    assert straight["tokens"] == 4 * 64 + 6 * 128
    config = settings(shards_folder, tmp_path / "b", **ramp)
    stopped_after(monkeypatch, config, 7)
    assert_same_run(straight, train(config, resume=True))


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_article_family_with_dropout_resumes_bit_for_bit(shards_folder, tmp_path, monkeypatch, packing):
    changes = {
        "model": {
            "model_type": "danlu_article",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "optim": {"name": "adamw", "decay_all": True, "weight_decay": 0.01},
        "schedule": {"shape": "linear", "warmup_steps": 2},
        "packing": packing,
    }
    straight = train(settings(shards_folder, tmp_path / "a", **changes))
    config = settings(shards_folder, tmp_path / "b", **changes)
    stopped_after(monkeypatch, config, 8)
    assert_same_run(straight, train(config, resume=True))


def test_micro_batches_do_not_change_what_is_learned(whole, shards_folder, tmp_path):
    changed = {**TINY["device"], "micro_batch_tokens": 128}
    one = load_model(Path(train(settings(shards_folder, tmp_path / "one", device=changed))["checkpoint"]))
    two = load_model(Path(whole["checkpoint"]))
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_resume_without_a_checkpoint_starts(whole, shards_folder, tmp_path):
    done = train(settings(shards_folder, tmp_path / "fresh"), resume=True)
    assert done["resumed_at"] is None
    assert_same_run(whole, done)


def test_resume_of_a_finished_run_gives_the_object_again(whole, shards_folder):
    assert train(settings(shards_folder, whole["run"]), resume=True) == whole


def test_an_existing_run_is_not_overwritten(whole, shards_folder):
    with pytest.raises(OutputError, match="is a run already"):
        train(settings(shards_folder, whole["run"]))


def test_other_settings_are_refused_on_resume(whole, shards_folder):
    with pytest.raises(ConfigError, match="started with seed = 0, now it is 5"):
        train(settings(shards_folder, whole["run"], seed=5), resume=True)
    with pytest.raises(ConfigError, match=r"started with optim\.lr = 0\.003, now it is 0\.001"):
        train(settings(shards_folder, whole["run"], optim={"lr": 1e-3}), resume=True)


def test_init_starts_a_new_run_from_a_checkpoint(whole, shards_folder, tmp_path):
    done = train(settings(shards_folder, tmp_path / "more", init=whole["checkpoint"], budget="2 steps"))
    first = next(r for r in log.read_metrics(tmp_path / "more") if r["kind"] == "eval")
    last = [r for r in log.read_metrics(Path(whole["run"])) if r["kind"] == "eval"][-1]
    assert first["bits_per_char"] == pytest.approx(last["bits_per_char"], rel=1e-6)
    assert done["step"] == 2


def test_init_takes_another_context_and_trains_with_the_dropout_of_this_run(shards_folder, tmp_path):
    family = {"model_type": "danlu_article", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    without = {"model": {**family, "dropout": 0.0}, "optim": {"name": "adamw"}, "checkpoint_every": 100}
    first = train(settings(shards_folder, tmp_path / "first", "2 steps", **without))
    longer = {**without, "context": 64, "init": first["checkpoint"]}
    runs = {}
    for dropout in (0.0, 0.5):
        changes = {**longer, "model": {**family, "dropout": dropout}}
        done = train(settings(shards_folder, tmp_path / f"next-{dropout}", "3 steps", **changes))
        runs[dropout] = load_model(Path(done["checkpoint"]))
        assert runs[dropout].context == 64
    assert any(not torch.equal(a, b) for a, b in zip(runs[0.0].parameters(), runs[0.5].parameters(), strict=True))


def test_init_with_another_tokenizer_is_refused(whole, shards_folder, tmp_path, texts):
    other = train_tokenizer(texts[:300], 320)
    documents = [Document(text, "test", str(i)) for i, text in enumerate(texts)]
    prepare(documents, other, tmp_path / "shards", 0.1)
    with pytest.raises(TokenizerError, match="another tokenizer"):
        train(settings(tmp_path / "shards", tmp_path / "x", init=whole["checkpoint"]))


def test_init_with_another_architecture_is_refused(whole, shards_folder, tmp_path):
    with pytest.raises(CheckpointError, match="architecture"):
        train(settings(shards_folder, tmp_path / "x", init=whole["checkpoint"], model={"hidden_size": 64}))


def test_a_damaged_newest_checkpoint_is_passed_over(whole, shards_folder, tmp_path, monkeypatch, capsys):
    config = settings(shards_folder, tmp_path / "run")
    stopped_after(monkeypatch, config, 8)
    damage(tmp_path / "run" / "checkpoints" / "step-00000008")
    done = train(config, resume=True)
    assert done["resumed_at"] == 6
    assert "state.safetensors" in capsys.readouterr().err
    assert_same_run(whole, done)


def damage(checkpoint):
    victim = checkpoint / "trainer" / "state.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")


def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_good_ones(shards_folder, tmp_path, monkeypatch):
    changes = {"checkpoint_every": 2, "eval_every": 100, "keep_checkpoints": 1}
    config = settings(shards_folder, tmp_path / "run", **changes)
    checkpoints = tmp_path / "run" / "checkpoints"
    stopped_after(monkeypatch, config, 4)
    older = checkpoints.parent / "older"
    shutil.copytree(checkpoints / "step-00000004", older)
    stopped_after(monkeypatch, config, 8)
    older.rename(checkpoints / "step-00000004")
    damage(checkpoints / "step-00000008")
    stopped_after(monkeypatch, config, 6)
    assert [folder.name for folder in checkpoints.iterdir()] == ["step-00000006"]
    assert newest_good(checkpoints).name == "step-00000006"


def test_where_no_checkpoint_verifies_starting_over_must_be_asked_for(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run", checkpoint_every=2, eval_every=100)
    stopped_after(monkeypatch, config, 2)
    damage(tmp_path / "run" / "checkpoints" / "step-00000002")
    with pytest.raises(CheckpointError, match="no checkpoint in it verifies"):
        train(config, resume=True)


def test_an_error_in_the_middle_of_a_run_leaves_its_checkpoints(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run")
    stopped_after(monkeypatch, config, 4, ConfigError)
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step-00000004"


def test_what_the_user_had_in_the_folder_stays(shards_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataError, match="prompt"):
        train(settings(shards_folder, tmp_path, prompts=["长江" * 100]), resume=True)
    assert (tmp_path / "mine.txt").exists()


def test_a_prompt_that_does_not_fit_leaves_no_folder(shards_folder, tmp_path):
    with pytest.raises(DataError, match="prompt"):
        train(settings(shards_folder, tmp_path / "run", prompts=["长江" * 100]))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_where_it_was_moved(whole, shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run")
    stopped_after(monkeypatch, config, 5)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["train", str(tmp_path / "moved"), "--resume"]) == 0
    assert_same_run(whole, {**whole, "run": tmp_path / "moved", "checkpoint": tmp_path / "moved" / "latest"})


def test_two_processes_do_not_write_one_run(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run")
    stopped_after(monkeypatch, config, 4)
    with storage.only_writer(tmp_path / "run"), pytest.raises(OutputError, match="another process"):
        train(config, resume=True)


def test_no_space_for_the_metrics_is_one_line_and_the_checkpoint_stays(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run", checkpoint_every=2)
    stopped_after(monkeypatch, config, 4)
    monkeypatch.setattr(log.MetricsLog, "path", property(lambda _: Path("/dev/full"), lambda *_: None), raising=False)
    with pytest.raises(OutputError, match="no space left"):
        train(config, resume=True)
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step-00000004"


def test_losses_that_are_not_finite_stop_the_run_with_the_last_good_checkpoint(shards_folder, tmp_path, monkeypatch):
    from danlu.train import trainer

    original, calls = trainer.train_step, []

    def poisoned(model, *rest):
        calls.append(1)
        if len(calls) > 4:
            with torch.no_grad():
                model.model.norm.weight[0] = math.nan
        return original(model, *rest)

    monkeypatch.setattr(trainer, "train_step", poisoned)
    with pytest.raises(TrainingError, match=r"step 9: 5 steps in a row.*step-00000003"):
        train(settings(shards_folder, tmp_path / "run", budget="30 steps", checkpoint_every=3, eval_every=100))
    skipped = [r["step"] for r in log.read_metrics(tmp_path / "run") if r["kind"] == "skipped"]
    assert skipped == [5, 6, 7, 8, 9]
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step-00000003"


def test_a_time_budget_ends_decayed_and_on_time(shards_folder, tmp_path):
    started = time.monotonic()
    done = train(settings(shards_folder, tmp_path / "run", budget="6 s", checkpoint_every=0, eval_every=0))
    assert 4 < time.monotonic() - started < 9
    rows = [r for r in log.read_metrics(tmp_path / "run") if r["kind"] == "train"]
    assert rows[-1]["step"] == done["step"]
    assert rows[-1]["learning_rate"] < 0.1 * max(r["learning_rate"] for r in rows)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["versions"][-1]["total_steps"] == done["step"]


def test_recorded_revisions_are_repeated_on_resume(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run", budget="12 s", checkpoint_every=7, eval_every=0)
    stopped_after(monkeypatch, config, 30)
    before = json.loads((tmp_path / "run" / "plan.json").read_text())["versions"]
    train(config, resume=True)
    after = json.loads((tmp_path / "run" / "plan.json").read_text())["versions"]
    assert len(before) > 1
    assert after[: len(before)] == before


def test_the_command_trains_and_prints_one_json_object(shards_folder, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(to_toml(settings(shards_folder, tmp_path / "run", "2 steps")))
    assert main(["train", str(tmp_path / "config.toml"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = {
        "run",
        "checkpoint",
        "best",
        "step",
        "resumed_at",
        "tokens",
        "loss_nats_per_token",
        "bits_per_char",
        "seconds",
    }
    assert keys <= result.keys()
    assert main(["train", str(tmp_path / "run"), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


def test_an_unwritable_folder_is_one_line(shards_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "config.toml").write_text(to_toml(settings(shards_folder, tmp_path / "file" / "run", "2 steps")))
    assert main(["train", str(tmp_path / "config.toml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"shape": "linear", "warmup_steps": 50}}, "50.*10 steps"),
        ({"device": {"name": "cuda"}}, "cuda"),
    ],
)
def test_what_cannot_be_run_leaves_no_folder(shards_folder, tmp_path, changes, message):
    if "device" in changes and torch.cuda.is_available():
        changes = {"device": {"name": "mps"}}
        message = "mps"
    with pytest.raises(ConfigError, match=message):
        train(settings(shards_folder, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
