"""What code compiled by numba shares: stored numbers, sums, the exponential, and who may run.

A stored number is float32, or bfloat16 as the uint16 of its bits; arithmetic is in float32 in either case.
numba is optional (extra [fast]). It keeps what it compiled until the file of the compiled function changes; what
uses another file's functions is compiled anew when that changes (`_forget_stale`). Only what Python calls is kept: code
that finds a function it calls in the cache cannot take it apart, and rounds differently than where both are compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from danlu.log import say

SUMS = {"reassoc", "contract", "arcp", "nsz"}
"""What a compiled loop may do with floats: order sums anew, so that they use whole vectors."""
_THREADS = numba.get_num_threads()  # as many as it has, before anybody asks for fewer
_CALLED_FROM_OTHERS = "compiled.py", "passes.py", "openblas.py"
_one_at_a_time = Lock()  # not every threading layer of numba may be called by two threads at once
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)
_PER_LN2, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUNDER = np.float32(1.5 * 2**23)  # added, it leaves no room for a fraction: the sum's last bits are a whole number
_E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(n)) for n in range(3, 8))


@contextmanager
def running() -> Iterator[int]:
    """Let one thread at a time run compiled code, on as many threads as PyTorch takes; give their number."""
    with _one_at_a_time:
        threads = min(torch.get_num_threads(), _THREADS)
        numba.set_num_threads(threads)
        yield threads


def announce(function: Any, seconds: str) -> None:
    """Say that code will be compiled, if it never was on this machine."""
    if not any(Path(str(function.stats.cache_path)).glob(f"{Path(function.py_func.__code__.co_filename).stem}.*.nbi")):
        say(f"compiling for this processor, once: about {seconds} seconds")


def numbers(x: Tensor) -> np.ndarray:
    """See a tensor's memory as numpy, bfloat16 as the uint16 of its bits."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _float_of_bits(_: Any, __: Any) -> Any:
    def code(context: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


def _bits_of_float(_: Any, __: Any) -> Any:
    def code(context: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


_to_float: Any = intrinsic(_float_of_bits)
_to_bits: Any = intrinsic(_bits_of_float)


def wide(number: Any) -> Any:
    """Return a stored number as float32; for compiled code."""


def store(numbers_K: Any, out_K: Any) -> None:
    """Write float32 numbers as `out_K` stores them, bfloat16 to the nearest, ties to even; for compiled code."""


@overload(wide)
def _(number: Any) -> Any:
    def same(number: Any) -> Any:
        return number

    def widened(number: Any) -> Any:
        return _to_float(np.uint32(number) << np.uint32(16))

    return widened if number == types.uint16 else same


@overload(store)
def _(numbers_K: Any, out_K: Any) -> Any:
    def exact(numbers_K: Any, out_K: Any) -> None:
        for i in range(out_K.shape[0]):  # not a slice's assignment, whose error message takes seconds to compile
            out_K[i] = numbers_K[i]

    def rounded(numbers_K: Any, out_K: Any) -> None:
        for i in range(out_K.shape[0]):
            bits = _to_bits(numbers_K[i])
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            out_K[i] = np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return rounded if out_K.dtype == types.uint16 else exact


@njit(fastmath=SUMS, cache=True)
def dot(stored: np.ndarray, x: np.ndarray) -> Any:
    """Return the sum of products of stored numbers and float32 ones."""
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += wide(stored[i]) * x[i]
    return total


@njit(fastmath=False)  # said, since it would inherit its caller's, and no longer round
def exp(x: Any) -> Any:
    """Return e^x in float32, to 2e-7 of itself: what a compiler makes vectors of, unlike a call of the C library.

    x is held within -87 and 88. e^x = 2^n e^r for the nearest whole n; e^r by its series.
    """
    x = min(max(x, _LOWEST), _HIGHEST)
    rounded = x * _PER_LN2 + _ROUNDER
    n = rounded - _ROUNDER
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    high = _E4 + r * (_E5 + r * (_E6 + r * _E7))
    series = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * (_E3 + r * high)))
    scale = _to_float((_to_bits(rounded) - _to_bits(_ROUNDER) + np.uint32(127)) << np.uint32(23))
    return series * scale


@njit(fastmath=SUMS)
def inverse_rms(stored: np.ndarray, eps: Any) -> Any:
    """Return 1 over the root of the mean square of stored numbers."""
    total = np.float32(0)
    for i in range(stored.shape[0]):
        number = wide(stored[i])
        total += number * number
    return np.float32(1 / math.sqrt(total / np.float32(stored.shape[0]) + eps))


@njit(fastmath=SUMS)
def normalise(stored: np.ndarray, scale: np.ndarray, eps: Any, out: np.ndarray) -> None:
    """Divide stored numbers by their root mean square, then scale; `out`, float32, may be the numbers themselves."""
    inverse = inverse_rms(stored, eps)
    for i in range(stored.shape[0]):
        out[i] = wide(stored[i]) * inverse * scale[i]


@njit(fastmath=SUMS)
def rotate(x_K: np.ndarray, cos: np.ndarray, sin: np.ndarray, direction: Any) -> None:
    """Rotate every pair of channels (i, i + K/2) of float32 numbers by an angle, or back (direction -1), in place."""
    half = x_K.shape[0] // 2
    first_F, second_F = x_K[:half], x_K[half:]
    for i in range(half):
        first, second, sine = first_F[i], second_F[i], sin[i] * direction
        first_F[i] = first * cos[i] - second * sine
        second_F[i] = second * cos[i] + first * sine


def _forget_stale() -> None:
    """Drop what was compiled before one of the files was last changed whose functions other files' code holds."""
    with suppress(OSError):
        changed = max(Path(__file__).with_name(name).stat().st_mtime for name in _CALLED_FROM_OTHERS)
        for index in Path(str(dot.stats.cache_path)).glob("*.nbi"):
            if index.stat().st_mtime < changed:
                index.unlink(missing_ok=True)


_forget_stale()
