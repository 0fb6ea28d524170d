"""Cleaning that is killed, stopped, or runs out of room: the same command goes on, and ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_points
import pytest
import soiled
from test_cleaning import SETTINGS, clean, contents

from danlu.data.cleaning.work import folder_beside
from danlu.errors import OutputError

FLAGS = ["--repeats", "5", "--file-characters", "15000", "--format", "jsonl", "--json"]

KILLED = '''
"""usage: IN OUT: clean in a fork killed at its n-th point, then again in another, for every n; a JSON row each"""
import os, pathlib, shutil, sys
import danlu.data.cleaning.compare as compare, danlu.data.cleaning.records as records, danlu.data.cleaning.sift as sift
from danlu.data.cleaning.engines import Local
from danlu.data.cleaning.run import clean_corpus
from danlu.data.cleaning.settings import CleanSettings
from danlu.data.repeats import Repeats
from danlu.data.sources import Corpus
from danlu.storage import sha256_of
from kill_points import at_every_point

source, out = sys.argv[1], pathlib.Path(sys.argv[2])
settings = CleanSettings(repeats=Repeats(more_than=1), file_characters=4000)
places = [(os, name) for name in ("fsync", "rename", "replace", "link", "mkdir", "rmdir", "unlink")]
places += [(pathlib.Path, name) for name in ("touch", "write_text", "write_bytes", "chmod")]
places += [(records, "packed"), (sift, "write_array"), (compare, "write_array"), (compare, "append")]
places += [(compare, "near_duplicates")]

def work():
    against = ["这道题说的是哪一座桥，请你想一想。"]
    done = clean_corpus(Corpus([source]), settings, out, Local(1), against, Corpus([source]), 4000)
    hashes = {path.name: sha256_of(path) for path in sorted(out.iterdir())}
    beside = sorted(path.name for path in out.parent.iterdir())
    return {"done": [done["resumed"], done["already_cleaned"]], "same": [hashes, beside]}

at_every_point(places, work, lambda: shutil.rmtree(out, ignore_errors=True))
'''


@pytest.mark.slow
def test_killed_at_every_point_it_ends_with_the_same_bytes(tmp_path):
    source = soiled.write(tmp_path / "in.jsonl", soiled.records(30))
    argv = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=kill_points.ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *again = map(json.loads, done.stdout.splitlines())
    assert len(again) == whole["points"] > 150
    assert all(row["same"] == whole["same"] for row in again)
    assert whole["same"][1] == ["in.jsonl", "out"]
    resumed = {row["done"][0] for row in again}
    assert set(range(5)) <= resumed  # parts of both steps
    assert any(row["done"][1] for row in again)


def command(source: Path, out: Path, *flags: str, workers: int = 2) -> list[str]:
    """Return a command whose parts are small enough for many of them."""
    code = (
        "import sys, danlu.data.cleaning.run as run; from danlu.cli import main\n"
        "if __name__ == '__main__':\n"
        "    run.clean_corpus.__defaults__ = ((), 6_000); sys.exit(main(sys.argv[1:]))"
    )
    argv = ["clean", str(source), "--out", str(out), "--workers", str(workers), *FLAGS, *flags]
    return [sys.executable, "-c", code, *argv]


def finished(argv: list[str]) -> dict:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def parts_of(out: Path) -> int:
    return len(list(folder_beside(out).glob("*/[0-9]*")))


def wait_for_parts(process: subprocess.Popen, out: Path, count: int) -> bool:
    """Wait until so many parts are finished; False if the process ended before."""
    deadline = time.monotonic() + 120
    while parts_of(out) < count:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A corpus of some 60 parts and what an uninterrupted run makes of it."""
    folder = tmp_path_factory.mktemp("many")
    source = soiled.write(folder / "in.jsonl", soiled.records(900))
    finished(command(source, folder / "whole"))
    return source, contents(folder / "whole")


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_byte(many, tmp_path):
    source, whole = many
    out, rng, kills, done = tmp_path / "out", random.Random(0), 0, None
    while kills < 20:
        process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait_for_parts(process, out, parts_of(out) + rng.choice([0, 0, 1, 2, 30])):
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
        else:
            assert contents(out) == whole
            out.rename(tmp_path / f"out-{kills}")
    done = finished(command(source, out))
    assert contents(out) == whole
    assert not folder_beside(out).exists()
    assert done["out"] == str(out)


@pytest.mark.slow
def test_workers_end_with_the_process_that_was_killed(many, tmp_path):
    source, whole = many
    out = tmp_path / "out"
    process = subprocess.Popen(command(source, out, workers=3), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_for_parts(process, out, 40)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = finished(command(source, out))
    assert done["resumed"] >= 2
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("parts", [1, 40])
def test_a_signal_leaves_what_is_finished_and_says_so(many, tmp_path, number, parts):
    """Sent to the workers, too, as a terminal does; first before there are any, then while they work."""
    source, whole = many
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(source, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert wait_for_parts(process, out, parts)
    os.killpg(process.pid, number)
    said, remarks = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = [line for line in remarks.splitlines() if line.strip() and "sifting" not in line]
    kept = parts_of(out)
    assert kept >= parts
    assert lines == [
        f"{kept} parts are finished and lie in {folder_beside(out)}: the same command goes on there",
        "interrupted",
    ]
    assert not said
    assert not out.exists()
    assert finished(command(source, out))["resumed"] >= kept
    assert contents(out) == whole


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(many, tmp_path):
    source, whole = many
    out = tmp_path / "out"
    largest = max(len(value) for value in whole.values())
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest // 2}, {largest // 2}))\n"
    for workers in (1, 2):
        argv = command(source, out, workers=workers)
        argv[2] = limit + argv[2]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "no space left on the disk" in errors[0]
        assert "Traceback" not in done.stderr
        assert not out.exists()
    finished(command(source, out))
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def interrupted(source: Path, out: Path, monkeypatch, parts: int = 3) -> None:
    """Stop a run once so many parts are sifted."""
    from danlu.data.cleaning import sift

    def stop(path: Path, documents) -> None:
        if parts_of(out) == parts:
            raise KeyboardInterrupt
        write(path, documents)

    write = sift.write_documents
    with monkeypatch.context() as patch:
        patch.setattr(sift, "write_documents", stop)
        with pytest.raises(KeyboardInterrupt):
            clean(source, out)
    assert parts_of(out) == parts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("input", "other input"),
        ("settings", "other settings (repeats.more_than 5, now 6)"),
        ("part_characters", "other settings (part_characters 3000, now 5000)"),
        ("against", "other settings (against "),
    ],
)
def test_parts_of_another_run_are_refused_and_stay(tmp_path, monkeypatch, change, said):
    source = soiled.write(tmp_path / "in.jsonl", soiled.records(60))
    out, rest, settings = tmp_path / "out", {}, SETTINGS
    interrupted(source, out, monkeypatch)
    if change == "input":
        soiled.write(source, soiled.records(61))
    elif change == "settings":
        settings = SETTINGS.model_copy(update={"repeats": SETTINGS.repeats.model_copy(update={"more_than": 6})})
    else:
        rest = {change: 5_000 if change == "part_characters" else []}
    before = contents(folder_beside(out))
    with pytest.raises(OutputError, match="name another --out, or remove that folder") as refused:
        clean(source, out, settings, **rest)
    assert said in str(refused.value)
    assert contents(folder_beside(out)) == before
    clean(source, tmp_path / "elsewhere", settings, **rest)
    shutil.rmtree(folder_beside(out))
    assert clean(source, out, settings, **rest)["resumed"] == 0
    assert contents(out) == contents(tmp_path / "elsewhere")


def test_what_is_sifted_is_not_sifted_again(tmp_path, monkeypatch):
    source = soiled.write(tmp_path / "in.jsonl", soiled.records(60))
    interrupted(source, tmp_path / "out", monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in folder_beside(tmp_path / "out").glob("sifted/*")}
    interrupted(source, tmp_path / "out", monkeypatch, 4)
    assert len(before) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert clean(source, tmp_path / "out")["resumed"] == 4


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    source = soiled.write(tmp_path / "in.jsonl", soiled.records(30))
    from danlu.data.cleaning import sift

    def clean_again(path: Path, documents) -> None:
        with pytest.raises(OutputError, match="another process is writing to it"):
            clean(source, tmp_path / "out")
        write(path, documents)

    write = sift.write_documents
    monkeypatch.setattr(sift, "write_documents", clean_again)
    clean(source, tmp_path / "out")
