"""The OpenBLAS that numpy's wheels bring along, called from compiled code: products of float32 matrices.

A call computes on the thread that makes it; who wants several threads divides the rows among them, so that products
and passes (see `passes`) share one set of threads. Two sets wait for work by spinning, and each takes the cores from
the other: training took twice as long.
Importing this raises ImportError where numba is missing, or numpy has another BLAS (on macOS, in distributions).

Shapes: M rows, N columns, K summed over.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit, prange, types
from torch import Tensor

from danlu.model.compiled import running

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # cblas.h
_SGEMM = "danlu_sgemm"
_BYTES = 4


def _library() -> ctypes.CDLL:
    beside = Path(np.__file__).parent.parent / "numpy.libs"
    for path in sorted(beside.glob("*openblas64_*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "scipy_cblas_sgemm64_") and hasattr(library, "scipy_openblas_set_num_threads64_"):
            return library
    raise ImportError(f"{beside} holds no OpenBLAS")


_openblas = _library()
_THREADS = _openblas.scipy_openblas_get_num_threads64_()
llvm.add_symbol(_SGEMM, ctypes.cast(_openblas.scipy_cblas_sgemm64_, ctypes.c_void_p).value)
_flag, _size, _scale, _address = types.int32, types.int64, types.float32, types.uintp
_sgemm: Any = types.ExternalFunction(
    _SGEMM,
    types.void(
        *(_flag, _flag, _flag, _size, _size, _size),
        *(_scale, _address, _size, _address, _size, _scale, _address, _size),
    ),
)


def have_threads(of_its_own: bool) -> None:
    """Have OpenBLAS, in all of this process, use the threads it began with, or none but the calling one."""
    _openblas.scipy_openblas_set_num_threads64_(_THREADS if of_its_own else 1)


@njit(fastmath=False)
def _stride(x_MN: np.ndarray, turned: Any) -> Any:
    """Return the numbers from one row, or if turned column, to the next; of a single one there is no next."""
    return max(x_MN.strides[0] // _BYTES, x_MN.strides[1] // _BYTES, x_MN.shape[0] if turned else x_MN.shape[1])


@njit(fastmath=False)
def product(a_MK: np.ndarray, b_KN: np.ndarray, beta: Any, out_MN: np.ndarray) -> None:
    """Write a·b + beta·out; for compiled code. Rows or columns of a and b, and rows of out, lie without gaps."""
    (M, K), N, one, beta = a_MK.shape, b_KN.shape[1], np.float32(1), np.float32(beta)
    a_turned, b_turned = a_MK.strides[1] != _BYTES, b_KN.strides[1] != _BYTES
    a_order, b_order = _TRANSPOSED if a_turned else _PLAIN, _TRANSPOSED if b_turned else _PLAIN
    a, b, out = a_MK.ctypes.data, b_KN.ctypes.data, out_MN.ctypes.data
    a_stride, b_stride, out_stride = _stride(a_MK, a_turned), _stride(b_KN, b_turned), _stride(out_MN, False)
    _sgemm(_ROW_MAJOR, a_order, b_order, M, N, K, one, a, a_stride, b, b_stride, beta, out, out_stride)


@njit(parallel=True, fastmath=False, cache=True)
def _multiply(parts: Any, orders: Any, sizes: Any, addresses: Any, strides: Any, beta: Any) -> None:
    """Take addresses: for arrays, it would be compiled anew for every way in which the three may lie."""
    (a_order, b_order), (M, N, K), (a, b, out) = orders, sizes, addresses
    (a_stride, b_stride, out_stride), one = strides, np.float32(1)
    a_row = 1 if a_order == _TRANSPOSED else a_stride
    for part in prange(parts):
        start, stop = part * M // parts, (part + 1) * M // parts
        a_part, out_part = a + _BYTES * start * a_row, out + _BYTES * start * out_stride
        rows = stop - start
        _sgemm(_ROW_MAJOR, a_order, b_order, rows, N, K, one, a_part, a_stride, b, b_stride, beta, out_part, out_stride)


def multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor, beta: int) -> Tensor:
    """Write a·b + beta·out into `out`, on as many threads as PyTorch takes; layouts as for `product`."""
    orders = tuple(_PLAIN if t.stride(1) == 1 else _TRANSPOSED for t in (a_MK, b_KN))
    ways = zip((a_MK, b_KN, out_MN), (*orders, _PLAIN), strict=True)
    strides = tuple(max(*t.stride(), t.shape[order == _PLAIN]) for t, order in ways)
    addresses = a_MK.data_ptr(), b_KN.data_ptr(), out_MN.data_ptr()
    with running() as threads:
        parts = max(1, min(threads, len(out_MN)))
        _multiply(parts, orders, (*out_MN.shape, a_MK.shape[1]), addresses, strides, np.float32(beta))
    return out_MN
