"""The accelerator's benchmark runs as a whole, in small, on a CPU: so it is known to work before a GPU is lent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_section_finds_something(shards_folder, tmp_path):
    small = ["--tiny", "--device", "cpu", "--presets", "nano"]
    command = [sys.executable, str(SCRIPT), *small, "--data", str(shards_folder), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {row["section"]: [r for r in rows if r["section"] == row["section"]] for row in rows}
    assert len(found) == 5
    steps = found["A training step"]
    assert [row["compiled"] for row in steps] == [False, True]
    assert all(row["tokens/s"] > 0 for row in steps)
    assert found["A minute of training"][0]["bits/char"] > 1
    assert found["Beside its peers"][0]["tokens/s"] > 0
    backs = {row["back end"]: row for row in found["Attention, forward and backward"]}
    assert backs["math"]["ms"] > 0
    assert "failed" in backs["cudnn_attention"]
