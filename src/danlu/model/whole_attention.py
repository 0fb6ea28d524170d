"""Causal attention in training, compiled as a whole: a pair of row and key head is one thread's, all in its cache.

What it computes is what `fused_attention` does by PyTorch's products; here products are `openblas`'s, float32 alone.
A band of queries meets no key before the document that it begins in.

Shapes: N tokens (B rows of T), H query heads, G key/value heads, E = H + 2G heads as projected, K channels of a head,
F = K/2 pairs of channels, P = B·G pairs, R = H/G query heads of a pair, Q queries of a band, S keys.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

from danlu.model.compiled import SUMS, normalise, rotate
from danlu.model.openblas import product
from danlu.model.passes import BACK, BAND, LANES, ONE, copy, normalise_back, weigh, weigh_back


@njit(fastmath=SUMS)
def _turned(
    stored_TEK: np.ndarray, head: Any, scale: np.ndarray, cos: np.ndarray, sin: np.ndarray, eps: Any, out: np.ndarray
) -> None:
    """Write one head's rows, normalised and rotated."""
    for t in range(out.shape[0]):
        normalise(stored_TEK[t, head], scale[head], eps, out[t])
        rotate(out[t], cos[t], sin[t], ONE)


@njit(fastmath=SUMS)
def _turned_back(
    stored_TEK: np.ndarray,
    head: Any,
    scale: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    eps: Any,
    slope: np.ndarray,
    scale_grad: np.ndarray,
    out_TEK: np.ndarray,
) -> None:
    """Write the slope of one head's rows as projected, given that of the turned ones, which is spoilt."""
    for t in range(slope.shape[0]):
        rotate(slope[t], cos[t], sin[t], BACK)
        normalise_back(stored_TEK[t, head], scale[head], eps, slope[t], scale_grad[head])
        copy(slope[t], out_TEK[t, head])


@njit(fastmath=False)
def _clear_unseen(row_S: np.ndarray, first: Any, stop: Any) -> None:
    row_S[:first] = 0
    row_S[stop:] = 0


@njit(fastmath=False)
def _pair(p: Any, qkv_NEK: np.ndarray, cos: np.ndarray, sin: np.ndarray, first_BT: np.ndarray, groups: Any) -> Any:
    """Return a pair's key head, its row's start, and of that row the heads, the angles, and what may be seen first."""
    T = first_BT.shape[1]
    b, start = p // groups, p // groups * T
    turn = start % cos.shape[0]  # positions are each row's own, or all rows'
    return p % groups, start, qkv_NEK[start : start + T], cos[turn : turn + T], sin[turn : turn + T], first_BT[b]


@njit(parallel=True, fastmath=SUMS, cache=True)
def attend(
    qkv_NEK: np.ndarray,
    scale: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    eps: Any,
    first_BT: np.ndarray,
    mixed_NHK: np.ndarray,
    logsum_NH: np.ndarray,
) -> None:
    """Write what each token's heads found, and the logarithm of the sum of each query's weights."""
    (B, T), (_, E, K) = first_BT.shape, qkv_NEK.shape
    G = E - scale.shape[0]
    H = E - 2 * G
    R, rows, factor = H // G, min(BAND, T), np.float32(1 / math.sqrt(K))
    for p in prange(B * G):
        g, begin, own, cosines, sines, firsts = _pair(p, qkv_NEK, cos, sin, first_BT, G)
        found, logsum = mixed_NHK[begin : begin + T], logsum_NH[begin : begin + T]
        k, q = np.empty((T, K), np.float32), np.empty((rows, K), np.float32)
        weights, lanes = np.empty((rows, T), np.float32), np.empty(LANES, np.float32)
        _turned(own, H + g, scale, cosines, sines, eps, k)
        for h in range(R * g, R * (g + 1)):
            for start in range(0, T, BAND):
                low, stop = firsts[start], min(start + BAND, T)
                band, scores = q[: stop - start], weights[: stop - start, : stop - low]
                _turned(own[start:stop], h, scale, cosines[start:stop], sines[start:stop], eps, band)
                product(band, k[low:stop].T, 0, scores)
                for i in range(stop - start):
                    first, end = firsts[start + i] - low, start + i + 1 - low
                    row = weights[i]  # without gaps, as the compiler can see, unlike a row of `scores`
                    logsum[start + i, h] = weigh(row[first:end], factor, lanes)
                    _clear_unseen(row[: stop - low], first, end)
                product(scores, own[low:stop, H + G + g], 0, found[start:stop, h])


@njit(parallel=True, fastmath=SUMS, cache=True)
def attend_back(
    qkv_NEK: np.ndarray,
    scale: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    eps: Any,
    first_BT: np.ndarray,
    logsum_NH: np.ndarray,
    mixed_slope: np.ndarray,
    qkv_slope: np.ndarray,
    scale_grad: np.ndarray,
) -> None:
    """Write the slope of heads as projected, given that of what they found; add the scales' share, pair by pair."""
    (B, T), (_, E, K) = first_BT.shape, qkv_NEK.shape
    G = E - scale.shape[0]
    H = E - 2 * G
    R, rows, factor = H // G, min(BAND, T), np.float32(1 / math.sqrt(K))
    for p in prange(B * G):
        g, begin, own, cosines, sines, firsts = _pair(p, qkv_NEK, cos, sin, first_BT, G)
        above, logsum = mixed_slope[begin : begin + T], logsum_NH[begin : begin + T]
        out = qkv_slope[begin : begin + T]
        k, k_slope = np.empty((T, K), np.float32), np.zeros((T, K), np.float32)
        q, q_slope = np.empty((rows, K), np.float32), np.empty((rows, K), np.float32)
        weights, slopes = np.empty((rows, T), np.float32), np.empty((rows, T), np.float32)
        v, v_slope = own[:, H + G + g], out[:, H + G + g]
        for t in range(T):
            v_slope[t] = 0
        _turned(own, H + g, scale, cosines, sines, eps, k)
        for h in range(R * g, R * (g + 1)):
            for start in range(0, T, BAND):
                low, stop = firsts[start], min(start + BAND, T)
                n, given, angles = stop - start, own[start:stop], (cosines[start:stop], sines[start:stop])
                band, band_above, band_slope = q[:n], above[start:stop, h], q_slope[:n]
                band_weights, band_slopes = weights[:n, : stop - low], slopes[:n, : stop - low]
                _turned(given, h, scale, *angles, eps, band)
                product(band, k[low:stop].T, 0, band_weights)
                product(band_above, v[low:stop].T, 0, band_slopes)
                for i in range(n):
                    first, end = firsts[start + i] - low, start + i + 1 - low
                    seen, aside = weights[i], slopes[i]
                    weigh_back(seen[first:end], aside[first:end], factor, logsum[start + i, h])
                    _clear_unseen(seen[: stop - low], first, end)
                    _clear_unseen(aside[: stop - low], first, end)
                product(band_weights.T, band_above, 1, v_slope[low:stop])
                product(band_slopes.T, band, 1, k_slope[low:stop])
                product(band_slopes, k[low:stop], 0, band_slope)
                _turned_back(given, h, scale, *angles, eps, band_slope, scale_grad[p], out[start:stop])
        _turned_back(own, H + g, scale, cosines, sines, eps, k_slope, scale_grad[p], out)
