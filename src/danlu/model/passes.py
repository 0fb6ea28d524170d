"""What lies between the matrix products of a Qwen3 block in training, compiled by numba, each a single pass.

A pass takes numpy arrays and writes into those it is given; numbers are stored as `compiled` says, scales, angles and
sums are float32. What each computes is said in `fused`, which does the products.

Shapes: N tokens (B rows of T), D width, H query heads, G key/value heads, E = H + 2G heads as projected, K channels of
a head, F = K/2 pairs of channels, M inner width, P = B·G pairs of a row and a key head, Q = B·H·T queries, S keys,
C chunks of rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

from danlu.model.compiled import SUMS, exp, inverse_rms, normalise, rotate, store, wide
from danlu.types import IGNORED

CHUNKS = 64
"""Runs of rows that are worked on at once. Their number is fixed, so that sums do not depend on the threads."""
BAND = 128
"""Queries that are looked at together."""
LANES = 16
_ZERO, ONE, BACK = np.float32(0), np.float32(1), np.float32(-1)


@njit(fastmath=False)
def _chunk(c: Any, rows: Any) -> Any:
    return range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS)


@njit(fastmath=False)
def _highest(row_S: np.ndarray, lanes: np.ndarray) -> Any:
    """Return the largest number; lane by lane, of which a compiler makes vectors."""
    lanes[:] = -np.inf
    whole = row_S.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        part = row_S[start : start + LANES]
        for lane in range(LANES):
            lanes[lane] = max(lanes[lane], part[lane])
    highest = np.float32(-np.inf)
    for lane in range(LANES):
        highest = max(highest, lanes[lane])
    for number in row_S[whole:]:
        highest = max(highest, number)
    return highest


@njit(fastmath=SUMS)
def weigh(row_S: np.ndarray, scale: Any, lanes: np.ndarray) -> Any:
    """Turn scores into weights; return the logarithm of the sum of their powers."""
    highest, total = _highest(row_S, lanes), _ZERO
    for s in range(row_S.shape[0]):
        weight = exp((row_S[s] - highest) * scale)
        row_S[s] = weight
        total += weight
    inverse = ONE / total
    for s in range(row_S.shape[0]):
        row_S[s] *= inverse
    return highest * scale + np.float32(math.log(total))


@njit(fastmath=SUMS)
def weigh_back(scores_S: np.ndarray, slope_S: np.ndarray, scale: Any, logsum: Any) -> None:
    """Turn a query's scores into weights again, and the weights' slope into the scores'."""
    along = _ZERO
    for s in range(scores_S.shape[0]):
        weight = exp(scores_S[s] * scale - logsum)
        scores_S[s] = weight
        along += weight * slope_S[s]
    for s in range(scores_S.shape[0]):
        slope_S[s] = scores_S[s] * (slope_S[s] - along) * scale


@njit(fastmath=False)
def copy(stored: np.ndarray, out: np.ndarray) -> None:
    """Write numbers as they are stored; not by a slice's assignment (see `store`)."""
    for i in range(stored.shape[0]):
        out[i] = stored[i]


@njit(fastmath=SUMS)
def _widen(stored: np.ndarray, out: np.ndarray) -> None:
    for i in range(stored.shape[0]):
        out[i] = wide(stored[i])


@njit(parallel=True, fastmath=SUMS, cache=True)
def normalise_rows(x_ND: np.ndarray, scale_D: np.ndarray, eps: Any, out_ND: np.ndarray) -> None:
    """Divide each row by its root mean square, then scale."""
    for c in prange(CHUNKS):
        row_D = np.empty(x_ND.shape[1], np.float32)
        for n in _chunk(c, x_ND.shape[0]):
            normalise(x_ND[n], scale_D, eps, row_D)
            store(row_D, out_ND[n])


@njit(fastmath=SUMS)
def normalise_back(
    stored_K: np.ndarray, scale_K: np.ndarray, eps: Any, slope_K: np.ndarray, scale_grad_K: np.ndarray
) -> None:
    """Turn the slope of normalised numbers, float32, into that of the numbers; add the scales' share."""
    inverse, along = inverse_rms(stored_K, eps), np.float32(0)
    for i in range(stored_K.shape[0]):
        product = slope_K[i] * (wide(stored_K[i]) * inverse)
        scale_grad_K[i] += product
        along += product * scale_K[i]
    along /= np.float32(stored_K.shape[0])
    for i in range(stored_K.shape[0]):
        slope_K[i] = inverse * (slope_K[i] * scale_K[i] - wide(stored_K[i]) * inverse * along)


@njit(parallel=True, fastmath=SUMS, cache=True)
def normalise_rows_back(
    x_ND: np.ndarray,
    scale_D: np.ndarray,
    stream_ND: np.ndarray,
    slope_ND: np.ndarray,
    scale_grad_CD: np.ndarray,
    eps: Any,
) -> None:
    """Turn the slope of normalised rows into that of the rows, the stream's added."""
    for c in prange(CHUNKS):
        row_D = np.empty(x_ND.shape[1], np.float32)
        for n in _chunk(c, x_ND.shape[0]):
            _widen(slope_ND[n], row_D)
            normalise_back(x_ND[n], scale_D, eps, row_D, scale_grad_CD[c])
            for i in range(x_ND.shape[1]):
                row_D[i] += wide(stream_ND[n, i])
            store(row_D, slope_ND[n])


@njit(fastmath=SUMS, error_model="numpy")  # no check for zero below, so that it makes vectors
def _open_row(gate_M: np.ndarray, up_M: np.ndarray, out_M: np.ndarray) -> None:
    for m in range(out_M.shape[0]):
        gate = wide(gate_M[m])
        out_M[m] = wide(up_M[m]) * gate / (ONE + exp(-gate))


@njit(fastmath=SUMS, error_model="numpy")  # no check for zero below, so that it makes vectors
def _open_row_back(
    gate_M: np.ndarray,
    up_M: np.ndarray,
    above_M: np.ndarray,
    opened_M: np.ndarray,
    gate_slope: np.ndarray,
    up_slope: np.ndarray,
) -> None:
    for m in range(opened_M.shape[0]):
        gate, up, above = wide(gate_M[m]), wide(up_M[m]), wide(above_M[m])
        share = ONE / (ONE + exp(-gate))
        silu = gate * share
        opened_M[m] = silu * up
        gate_slope[m] = above * up * (share + silu * (ONE - share))
        up_slope[m] = above * silu


@njit(parallel=True, fastmath=SUMS, cache=True)
def open_gates(gate_up: np.ndarray, opened_NM: np.ndarray) -> None:
    """Write silu(gate) · up of the two halves of each row."""
    M = opened_NM.shape[1]
    for c in prange(CHUNKS):
        row_M = np.empty(M, np.float32)
        for n in _chunk(c, opened_NM.shape[0]):
            _open_row(gate_up[n][:M], gate_up[n][M:], row_M)
            store(row_M, opened_NM[n])


@njit(parallel=True, fastmath=SUMS, cache=True)
def open_gates_back(gate_up: np.ndarray, opened_NM: np.ndarray) -> None:
    """Turn gate and up into their slope, and the slope of opened gates, by which that is found, into the gates."""
    M = opened_NM.shape[1]
    for c in prange(CHUNKS):
        opened_M, both = np.empty(M, np.float32), np.empty(2 * M, np.float32)
        for n in _chunk(c, opened_NM.shape[0]):
            _open_row_back(gate_up[n][:M], gate_up[n][M:], opened_NM[n], opened_M, both[:M], both[M:])
            store(opened_M, opened_NM[n])
            store(both, gate_up[n])


@njit(fastmath=False)
def _place(b: Any, h: Any, t: Any, B: Any, H: Any, G: Any, T: Any) -> Any:
    """Return a query's row: band after band, in a band by row of the batch, key head, query head, position."""
    start = t // BAND * BAND
    return B * H * start + (b * H + h) * min(BAND, T - start) + t - start


@njit(parallel=True, fastmath=SUMS, cache=True)
def split_heads(
    qkv_NEK: np.ndarray,
    scale: np.ndarray,
    cos_TF: np.ndarray,
    sin_TF: np.ndarray,
    eps: Any,
    q_QK: np.ndarray,
    k_PSK: np.ndarray,
    v_PSK: np.ndarray,
) -> None:
    """Write queries (at their `_place`) and keys, normalised and rotated, and values."""
    (N, E, K), T = qkv_NEK.shape, k_PSK.shape[1]
    B, G = N // T, E - scale.shape[0]
    H = E - 2 * G
    for c in prange(CHUNKS):
        row_K = np.empty(K, np.float32)
        for n in _chunk(c, N):
            b, t, angle = n // T, n % T, n % cos_TF.shape[0]
            for h in range(H + G):
                normalise(qkv_NEK[n, h], scale[h], eps, row_K)
                rotate(row_K, cos_TF[angle], sin_TF[angle], ONE)
                if h < H:
                    store(row_K, q_QK[_place(b, h, t, B, H, G, T)])
                else:
                    store(row_K, k_PSK[b * G + h - H, t])
            for g in range(G):
                copy(qkv_NEK[n, H + G + g], v_PSK[b * G + g, t])


@njit(parallel=True, fastmath=SUMS, cache=True)
def split_heads_back(
    qkv_NEK: np.ndarray,
    scale: np.ndarray,
    cos_TF: np.ndarray,
    sin_TF: np.ndarray,
    eps: Any,
    q_slope: np.ndarray,
    k_slope: np.ndarray,
    v_slope: np.ndarray,
    qkv_slope: np.ndarray,
    scale_grad: np.ndarray,
) -> None:
    """Write the slope of heads as projected, given that of queries, keys and values; add the scales' share."""
    (N, E, K), T = qkv_NEK.shape, k_slope.shape[1]
    B, G = N // T, E - scale.shape[0]
    H = E - 2 * G
    for c in prange(CHUNKS):
        row_K = np.empty(K, np.float32)
        for n in _chunk(c, N):
            b, t, angle = n // T, n % T, n % cos_TF.shape[0]
            for h in range(H + G):
                slope_K = q_slope[_place(b, h, t, B, H, G, T)] if h < H else k_slope[b * G + h - H, t]
                _widen(slope_K, row_K)
                rotate(row_K, cos_TF[angle], sin_TF[angle], BACK)
                normalise_back(qkv_NEK[n, h], scale[h], eps, row_K, scale_grad[c, h])
                store(row_K, qkv_slope[n, h])
            for g in range(G):
                copy(v_slope[b * G + g, t], qkv_slope[n, H + G + g])


@njit(fastmath=False)
def _store_seen(row_S: np.ndarray, first: Any, stop: Any, out_S: np.ndarray) -> None:
    """Write what a query sees, and zeros elsewhere."""
    store(row_S[first:stop], out_S[first:stop])
    out_S[:first] = 0
    out_S[stop:] = 0


@njit(parallel=True, fastmath=SUMS, cache=True)
def softmax(scores: np.ndarray, logsum: np.ndarray, first_BT: np.ndarray, start: Any, scale: Any) -> None:
    """Turn a band's scores into weights of what each query may see; `logsum`: of its scaled scores."""
    P, rows, seen = scores.shape
    groups, length = P // first_BT.shape[0], seen - start
    for c in prange(CHUNKS):
        row_S, lanes = np.empty(seen, np.float32), np.empty(LANES, np.float32)
        for i in _chunk(c, P * rows):
            p, q = i // rows, i % rows
            t = start + q % length
            first, stop = first_BT[p // groups, t], t + 1
            _widen(scores[p, q][first:stop], row_S[first:stop])
            logsum[p, q] = weigh(row_S[first:stop], scale, lanes)
            _store_seen(row_S, first, stop, scores[p, q])


@njit(parallel=True, fastmath=SUMS, cache=True)
def softmax_back(
    scores: np.ndarray, slope: np.ndarray, logsum: np.ndarray, first_BT: np.ndarray, start: Any, scale: Any
) -> None:
    """Turn a band's scores into weights again, and the weights' slope into the scores'."""
    P, rows, seen = scores.shape
    groups, length = P // first_BT.shape[0], seen - start
    for c in prange(CHUNKS):
        weight_S, slope_S = np.empty(seen, np.float32), np.empty(seen, np.float32)
        for i in _chunk(c, P * rows):
            p, q = i // rows, i % rows
            t = start + q % length
            first, stop = first_BT[p // groups, t], t + 1
            _widen(scores[p, q][first:stop], weight_S[first:stop])
            _widen(slope[p, q][first:stop], slope_S[first:stop])
            weigh_back(weight_S[first:stop], slope_S[first:stop], scale, logsum[p, q])
            _store_seen(weight_S, first, stop, scores[p, q])
            _store_seen(slope_S, first, stop, slope[p, q])


@njit(parallel=True, fastmath=SUMS, cache=True)
def nll_rows(logits_NV: np.ndarray, labels_N: np.ndarray, nll_N: np.ndarray) -> None:
    """Write the loss in nats, and turn logits into its slope by them; both 0 where the label is -100."""
    for c in prange(CHUNKS):
        row_V, lanes = np.empty(logits_NV.shape[1], np.float32), np.empty(LANES, np.float32)
        for n in _chunk(c, logits_NV.shape[0]):
            label = labels_N[n]
            if label == IGNORED:
                nll_N[n] = 0
                logits_NV[n] = 0
                continue
            _widen(logits_NV[n], row_V)
            target = row_V[label]
            nll_N[n] = weigh(row_V, ONE, lanes) - target
            row_V[label] -= ONE
            store(row_V, logits_NV[n])
