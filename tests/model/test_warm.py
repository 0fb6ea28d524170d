"""Compiled training computes the same bits in the process that first asked for it and in every later one."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_models import random_qwen3

from danlu.model import blas


def hashed(library):
    blas.use(library)
    model = random_qwen3("grouped")
    model.attention = "fused"
    ids = torch.randint(131, (2, 257), generator=torch.Generator().manual_seed(3))
    nll_BT = model(ids, labels=ids.roll(-1, 1)).nll_BT
    nll_BT.sum().backward()
    tensors = [nll_BT.detach(), *(p.grad for p in model.parameters())]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_first_process_computes_as_the_second(library, tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    found = []
    for _ in range(2):
        command = [sys.executable, __file__, library]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append((done.stdout.strip(), "compiling" in done.stderr))
    assert found[0][0] == found[1][0]
    assert [compiled for _, compiled in found] == [True, False]


if __name__ == "__main__":
    print(hashed(sys.argv[1]))
