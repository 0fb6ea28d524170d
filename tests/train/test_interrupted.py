"""Processes stopped by signals, at every write of a run and at random moments: resumed, they end with the same bits."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_points
import pytest
from tiny_run import assert_same_run, settings

from danlu.checkpoint import newest_good
from danlu.commands.train_ import train
from danlu.config import TrainConfig
from danlu.configure import to_toml

CHILD = '''
"""usage: CONFIG.toml: train in a fork killed at its n-th point, then resume in another, for every n; a JSON row each"""
import os, pathlib, shutil, sys
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
import torch
import torch.utils.tensorboard
import danlu.checkpoint, danlu.log
from danlu.commands.train_ import train
from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.storage import sha256_of
from kill_points import at_every_point

torch.set_num_threads(1)
config = check(TrainConfig, read_tables(sys.argv[1]), sys.argv[1])
places = [(os, name) for name in ("fsync", "rename", "replace", "symlink", "mkdir", "rmdir", "unlink")]
places += [(danlu.checkpoint, "save_file"), (danlu.checkpoint, "_write_json"), (danlu.log.MetricsLog, "write")]
places += [(pathlib.Path, name) for name in ("touch", "write_text")]

def work():
    done = train(config, resume=True)
    folder = pathlib.Path(done["checkpoint"])
    hashes = [sha256_of(folder / name) for name in ("model.safetensors", "trainer/state.safetensors")]
    losses = [row.get("loss_nats_per_token") for row in danlu.log.read_metrics(config.out)]
    return {"resumed_at": done["resumed_at"], "step": done["step"], "same": [hashes, losses]}

at_every_point(places, work, lambda: shutil.rmtree(config.out))
'''


@pytest.mark.slow
def test_killed_at_every_point_of_a_run_the_resumed_one_ends_with_the_same_bits(shards_folder, tmp_path):
    """Two saves, of which the second replaces the first; points before the first start over, later ones do not."""
    changes = {"checkpoint_every": 2, "eval_every": 4, "keep_checkpoints": 1, "sample_tokens": 0}
    config = settings(shards_folder, tmp_path / "run", "4 steps", **changes)
    (tmp_path / "config.toml").write_text(to_toml(config))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "config.toml")],
        capture_output=True,
        text=True,
        check=False,
        env=kill_points.ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *resumed = map(json.loads, done.stdout.splitlines())
    assert len(resumed) == whole["points"] > 80
    assert all(row["same"] == whole["same"] and row["step"] == 4 for row in resumed)
    assert {row["resumed_at"] for row in resumed} == {None, 2, 4}


def command(config: TrainConfig, folder: Path, *flags: str) -> list[str]:
    toml = folder / "config.toml"
    toml.write_text(to_toml(config))
    return [sys.executable, "-m", "danlu", "train", str(toml), "--json", *flags]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_continues_bit_for_bit(shards_folder, tmp_path, number):
    straight = train(settings(shards_folder, tmp_path / "a", "150 steps", checkpoint_every=0, eval_every=0))
    config = settings(shards_folder, tmp_path / "b", "150 steps", checkpoint_every=0, eval_every=0)
    process = subprocess.Popen(command(config, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "b" / "metrics.jsonl"
    while not metrics.is_file() or metrics.read_text().count('"train"') < 20:
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert "Traceback" not in err
    stopped = json.loads(out.splitlines()[-1])
    assert 20 <= stopped["step"] < 150
    done = train(config, resume=True)
    assert done["resumed_at"] == stopped["step"]
    assert_same_run(straight, done)


def rows_in(metrics: Path) -> int:
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def killed_after(process: subprocess.Popen, metrics: Path, rows: int, pause: float) -> bool:
    """SIGKILL once `rows` more rows are in `metrics`, and `pause` seconds later; False if it ended before that."""
    before, deadline = rows_in(metrics), time.monotonic() + 120
    while abs(rows_in(metrics) - before) < rows:  # a resumed run first cuts rows off
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(pause)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_kill_at_random_moments_changes_nothing(shards_folder, tmp_path):
    """SIGKILL a run again and again, resume each time, and end with the uninterrupted run's bits."""
    changes = {"checkpoint_every": 2, "eval_every": 100}
    straight = train(settings(shards_folder, tmp_path / "a", "400 steps", **changes))
    config = settings(shards_folder, tmp_path / "b", "400 steps", **changes)
    metrics, rng, kills, found = tmp_path / "b" / "metrics.jsonl", random.Random(0), 0, set()
    for _ in range(8):
        process = subprocess.Popen(
            command(config, tmp_path, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if not killed_after(process, metrics, rng.randint(3, 40), rng.uniform(0, 0.05)):
            break
        kills += 1
        newest = newest_good(tmp_path / "b" / "checkpoints")
        found.add(newest.name if newest else None)
    assert kills >= 3
    assert len(found) >= 3
    done = train(config, resume=True)
    assert done["resumed_at"] is not None
    assert done["step"] == 400
    assert_same_run(straight, done)
