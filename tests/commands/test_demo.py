"""`danlu demo` as a user runs it: interrupted, resumed, and everything its JSON promises."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROMISED = {
    "data",
    "tokenizer",
    "run",
    "checkpoint",
    "parameters",
    "tokens",
    "bits_per_char",
    "baselines",
    "samples",
    "report",
}


@pytest.mark.slow
def test_an_interrupted_demo_says_how_to_go_on_and_ends_with_all_that_was_promised(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "danlu", "demo", "--minutes", "3", "--out", str(out), "--json"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "run" / "metrics.jsonl"
    while not metrics.is_file() or metrics.read_text().count('"train"') < 3:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    said, remarks = first.communicate(timeout=60)
    assert first.returncode == 130, remarks
    assert f"danlu demo --resume --out {out}" in said
    stopped = json.loads(said.splitlines()[-1])
    assert stopped["finished"] is False
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= PROMISED
    assert result["step"] > stopped["step"]
    assert all(Path(result[key]).exists() for key in ("data", "tokenizer", "run", "checkpoint", "report"))
    assert f"going on after step {stopped['step']}" in done.stderr
    manifest = json.loads((out / "shards" / "manifest.json").read_text())
    assert manifest["dropped"]["duplicate"] > 10_000
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
