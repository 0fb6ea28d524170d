"""Compiles what `fused` needs, in a process of its own: `python -m danlu.model.warm float32 numpy`.

What numba has just compiled and what it reads back from its cache may round differently (seen: a norm's rows). A run
that compiled, and its resumption that did not, would part ways; so every run reads from the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import llvmlite.binding as llvm
import numba
import torch

from danlu.config import Qwen3Config
from danlu.log import say
from danlu.model import blas, passes
from danlu.model.blas import Blas
from danlu.model.qwen3 import Qwen3

_ready: set[tuple[str, Blas]] = set()
_INSIDE = "DANLU_COMPILING"


def _mark(number: str, library: Blas) -> Path:
    made_for = f"{llvm.get_host_cpu_name()}-{sys.implementation.cache_tag}-numba-{numba.__version__}"
    return Path(str(passes.nll_rows.stats.cache_path)) / f"fused-{number}-{library}-{made_for}.compiled"


def ensure(number: torch.dtype, library: Blas) -> None:
    """Have the code for such numbers in numba's cache, before this process first calls any of it.

    Where the other process fails, this one compiles for itself as it goes, and meets the same trouble.
    """
    key = (str(number).rpartition(".")[2], library)
    if key in _ready or _INSIDE in os.environ:
        return
    _ready.add(key)
    mark, changed = _mark(*key), max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    if mark.is_file() and mark.stat().st_mtime >= changed:
        return
    say("compiling for this processor, once: about half a minute")
    with suppress(OSError):
        command = [sys.executable, "-m", "danlu.model.warm", *key]
        subprocess.run(command, env=os.environ | {_INSIDE: "1"}, check=False, capture_output=True)


def _compile(number: str, library: Blas) -> None:
    """Learn once by each library: what PyTorch's products need is needed beside OpenBLAS's too, for few rows."""
    shape = Qwen3Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=32,
    )
    model = Qwen3(shape, 64, 16)
    model.attention, model.compute_dtype = "fused", getattr(torch, number)
    torch.set_num_threads(1)  # else one row of one key head is too few for attention as a whole
    ids = torch.zeros(1, 16, dtype=torch.int64)
    libraries: tuple[Blas, ...] = ("torch", library)
    for each in libraries:
        blas.use(each)
        nll = model(ids, labels=ids).nll_BT
        assert nll is not None
        nll.sum().backward()
        _mark(number, each).touch()


if __name__ == "__main__":
    _compile(sys.argv[1], "numpy" if sys.argv[2] == "numpy" else "torch")
