"""What the machine is good at: device, precision, threads. Measured at the start, then recorded."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from danlu.config import DeviceConfig, Qwen3Config
from danlu.errors import ConfigError
from danlu.model import blas, build_model
from danlu.model.blas import Blas
from danlu.model.layers import Attention, attend

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's mallopt."""
_CLEARLY = 1.02
"""OpenBLAS is chosen where a block by its products is at least so many times faster than by PyTorch's."""
_WORTH_IT = 1.5
"""bf16 is chosen where its matrix product is at least this many times faster than fp32's."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the probe chose; part of the plan, so that a resumed run computes as the first one did.

    `gemm_flops` is the measured speed of PyTorch's large matrix product in `precision`, in FLOP/s, whatever `blas` is.
    """

    device: str
    precision: str
    threads: int
    gemm_flops: float
    micro_batch_tokens: int = 0
    attention: Attention = "sdpa"
    compile: bool = False
    blas: Blas = "torch"

    @property
    def dtype(self) -> torch.dtype:
        """Return the compute type."""
        return DTYPES[self.precision]

    def unfused(self) -> Machine:
        """Return the machine for a model that the kernel `fused` does nothing for."""
        return replace(self, attention="blocked", blas="torch") if self.attention == "fused" else self


def probe(config: DeviceConfig, window: int = 512) -> Machine:
    """Choose device, threads, precision and attention kernel by short timed trials; about a second in all.

    The kernel `fused` is not tried here (see `start.decide`): it takes half a minute to compile.
    """
    device = device_of(config.name)
    keep_freed_memory()
    _require_deterministic(device, config.deterministic)
    threads = config.threads or physical_cores()
    torch.set_num_threads(threads)
    precision = faster_precision(device) if config.precision == "auto" else config.precision
    large = 1024 if device.type == "cpu" else 8192
    attention = config.attention
    if attention == "auto":
        attention = faster_attention(DTYPES[precision], window) if device.type == "cpu" else "sdpa"
    return Machine(
        device.type,
        precision,
        threads,
        gemm_flops(device, DTYPES[precision], large),
        config.micro_batch_tokens,
        attention,
        config.compile == "on",
    )


def fused(machine: Machine, config: DeviceConfig) -> Machine:
    """Return a machine that takes the kernel `fused`, and its matrix products by the library configured or faster.

    Raises ConfigError where the kernel is not to be had, or numpy's products are asked for and it brings none along.
    """
    _require_fused(device_of(machine.device))
    chosen: Blas = "torch"
    if machine.precision == "fp32" and config.blas == "numpy":
        _require_openblas()
        chosen = "numpy"
    elif machine.precision == "fp32" and config.blas == "auto" and has_openblas():
        chosen = faster_blas()
    return replace(machine, attention="fused", blas=chosen)


def prepare(machine: Machine, deterministic: bool) -> torch.device:
    """Set threads and determinism as the plan says. Raises ConfigError where it cannot be done here."""
    device = device_of(machine.device)
    if machine.attention == "fused":
        _require_fused(device)
    if machine.blas == "numpy":
        _require_openblas()
    blas.use(machine.blas)
    keep_freed_memory()
    torch.set_num_threads(machine.threads)
    _require_deterministic(device, deterministic)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def _require_fused(device: torch.device) -> None:
    if device.type != "cpu":
        raise ConfigError(f"device.attention fused: is for a CPU, and this run is on {device.type}. Leave it out")
    if not can_fuse():
        raise ConfigError(
            "device.attention fused: what this run computes with is compiled by numba, which is not here, or cannot "
            "keep what it compiled. Install danlu with its extra [fast]; where that is done, set NUMBA_CACHE_DIR to a "
            "folder that can be written"
        )


def require_blas(machine: Machine, config: DeviceConfig) -> None:
    """Raise ConfigError where numpy's products are asked for, and this run has no use for them."""
    if config.blas == "numpy" and machine.blas != "numpy":
        raise ConfigError(
            f"device.blas numpy: is for device.attention fused in fp32 on a CPU, and this would compute by "
            f"{machine.attention} in {machine.precision} on {machine.device}. Ask for those too, or leave it out"
        )


def can_fuse() -> bool:
    """Tell whether the kernel `fused` is to be had."""
    return _can_import("danlu.model.fused")


def has_openblas() -> bool:
    """Tell whether numpy's OpenBLAS can be called here."""
    return _can_import("danlu.model.openblas")


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError, OSError, ValueError, AttributeError):
        return False  # no numba, nowhere to keep what it compiles, settings under which it cannot; another BLAS
    return True


def _require_openblas() -> None:
    if not has_openblas():
        raise ConfigError(
            "device.blas numpy: what this run computes with is the OpenBLAS of numpy's wheels, called by numba, which "
            "are not here. Install danlu with its extra [fast] and numpy 2 from a wheel, or begin a run without it"
        )


def _require_deterministic(device: torch.device, wanted: bool) -> None:
    """Allow only deterministic CUDA kernels, if wanted: cuBLAS reads its setting at the first product."""
    if wanted and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, where it is the C library: a step needs the same large blocks as the one before.

    Otherwise each goes back to the system and comes again as fresh pages, which the system fills with zeros.
    """
    with contextlib.suppress(AttributeError, OSError):
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 0)
        c_library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def gemm_flops(device: torch.device, dtype: torch.dtype, size: int, seconds: float = 0.06) -> float:
    """Measure an N×N matrix product (N = 4 `size` by `size` by `size`): the best of several, in FLOP/s."""
    a = torch.randn(4 * size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    torch.mm(a, b)
    best, until = float("inf"), time.perf_counter() + seconds
    while True:
        synchronise(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > until:
            return 2 * 4 * size**3 / best


def faster_precision(device: torch.device) -> str:
    """Return bf16 where its matrix product is much faster than fp32's on this machine, else fp32; 0.2 s."""
    size = 256 if device.type == "cpu" else 4096
    ratio = gemm_flops(device, torch.bfloat16, size) / gemm_flops(device, torch.float32, size)
    return "bf16" if ratio >= _WORTH_IT else "fp32"


def faster_attention(dtype: torch.dtype, window: int) -> Attention:
    """Time forward and backward of both CPU kernels on a few heads of `window` tokens; return the faster."""
    q, k, v = (torch.randn(4, 4, window, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    best: dict[Attention, float] = {"sdpa": float("inf"), "blocked": float("inf")}
    for _ in range(3):
        for kernel in best:
            start = time.perf_counter()
            attend(q, k, v, kernel=kernel).sum().backward()
            best[kernel] = min(best[kernel], time.perf_counter() - start)
    return min(best, key=lambda kernel: best[kernel])


def faster_blas() -> Blas:
    """Time a block's training by PyTorch's products and by OpenBLAS's, in turn; return the faster; three seconds.

    OpenBLAS is taken only where it is clearly faster, and can be called.
    """
    block = Qwen3Config(hidden_size=512, num_hidden_layers=1, num_attention_heads=8, intermediate_size=1280)
    model = build_model(block, 256, 512)
    model.attention = "fused"
    ids = torch.zeros(4, 512, dtype=torch.int64)  # as many tokens as a run computes at once
    best: dict[Blas, float] = {"numpy": float("inf"), "torch": float("inf")}  # to compile for the first is for both
    before = blas.used()
    try:
        for trial in range(5):
            for library in best:
                blas.use(library)
                start = time.perf_counter()
                nll_BT = model(ids, labels=ids).nll_BT
                assert nll_BT is not None
                nll_BT.sum().backward()
                best[library] = min(best[library], time.perf_counter() - start) if trial else best[library]
    except (RuntimeError, OSError, MemoryError):
        return "torch"  # a compiler that fails, a disk with no room for what it makes
    finally:
        blas.use(before)
    return "numpy" if best["numpy"] * _CLEARLY < best["torch"] else "torch"


def physical_cores() -> int:
    """Count the cores this process may use, hyper-threads of one core counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {
        (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        for cpu in allowed
        if Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").is_file()
    }
    return len(siblings) or len(allowed)


def seed_for(seed: int, purpose: str, step: int = 0) -> int:
    """Derive the seed of one use of random numbers: a function of (seed, purpose, step) and nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def device_of(name: str) -> torch.device:
    """Return the device of a name; auto: cuda, else mps, else cpu. Raises ConfigError where it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"device {name}: this machine (or this build of PyTorch) has none. Use cpu")
    return torch.device(name)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
