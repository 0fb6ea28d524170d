"""The soak of `danlu serve`, in small: the whole of it is `python benchmarks/serve.py soak`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.mark.slow
def test_300_requests_a_twentieth_abusive_lose_nothing():
    argv = [sys.executable, str(SCRIPT), "soak", "--requests", "300", "--clients", "16", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["lost"], found["wrong"], found["left_over"]) == (0, [], 0)
    assert {"streamed", "whole", "bad_json", "huge"} <= found["kinds"].keys()
