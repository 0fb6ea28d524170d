"""One more token of few rows on a CPU, compiled by numba: weights are read as fast as memory gives them.

PyTorch's product of one row reads a matrix at half the speed of a plain sum, and the calls around the products cost
a third again. Here a block is two calls. numba is optional (extra [fast]): `decode.NextTokens` does without it.

A matrix is float32, or bfloat16 as the uint16 of its bits; sums and the stream are float32 in either case.

Shapes: B rows, D width, H query heads, G key/value heads, N = H + G, K channels of a head, F = K/2 pairs of channels,
S keys, M inner width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from danlu.model.cache import Cache
from danlu.model.compiled import SUMS, announce, dot, exp, normalise, numbers, rotate, running, store, wide
from danlu.model.layers import rope_tables

if TYPE_CHECKING:
    from danlu.model.qwen3 import Joined, Qwen3

_FORWARD = np.float32(1)


@njit(fastmath=SUMS, cache=True)
def _attend(q_K: np.ndarray, k_SK: np.ndarray, v_SK: np.ndarray, weight_S: np.ndarray, out_K: np.ndarray) -> None:
    """Write the mean of the values, weighted by softmax(k q / √K)."""
    scale, highest = np.float32(1 / math.sqrt(q_K.shape[0])), np.float32(-np.inf)
    for s in range(weight_S.shape[0]):
        weight_S[s] = dot(k_SK[s], q_K) * scale
        highest = max(highest, weight_S[s])
    total = np.float32(0)
    out_K[:] = 0
    for s in range(weight_S.shape[0]):
        weight = exp(weight_S[s] - highest)
        total += weight
        for i in range(out_K.shape[0]):
            out_K[i] += weight * wide(v_SK[s, i])
    for i in range(out_K.shape[0]):
        out_K[i] /= total


@njit(parallel=True, fastmath=SUMS, cache=True)
def multiply(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return x · matrixᵀ; a row of the matrix is read once for all rows of x."""
    out = np.empty((x.shape[0], matrix.shape[0]), np.float32)
    for n in prange(matrix.shape[0]):
        for b in range(x.shape[0]):
            out[b, n] = dot(matrix[n], x[b])
    return out


@njit(fastmath=SUMS, cache=True)
def _normalised(x_BD: np.ndarray, scale_D: np.ndarray, eps: np.float32) -> np.ndarray:
    out_BD = np.empty_like(x_BD)
    for b in range(x_BD.shape[0]):
        normalise(x_BD[b], scale_D, eps, out_BD[b])
    return out_BD


@njit(parallel=True, fastmath=SUMS, cache=True)
def _attention(
    x_BD: np.ndarray,
    norm_D: np.ndarray,
    qkv: np.ndarray,
    scale_NK: np.ndarray,
    o: np.ndarray,
    rope: tuple[np.ndarray, np.ndarray],
    k_BGSK: np.ndarray,
    v_BGSK: np.ndarray,
    positions_B: np.ndarray,
    eps: np.float32,
) -> None:
    """Store the tokens' keys and values at their positions; add what their queries find to the stream x_BD."""
    (N, K), B, G, (cos_BF, sin_BF) = scale_NK.shape, x_BD.shape[0], k_BGSK.shape[1], rope
    H = N - G
    heads = multiply(qkv, _normalised(x_BD, norm_D, eps)).reshape(B, N + G, K)
    for b in range(B):
        for n in range(N):
            normalise(heads[b, n], scale_NK[n], eps, heads[b, n])
            rotate(heads[b, n], cos_BF[b], sin_BF[b], _FORWARD)
        for g in range(G):
            store(heads[b, H + g], k_BGSK[b, g, positions_B[b]])
            store(heads[b, N + g], v_BGSK[b, g, positions_B[b]])
    mixed_BHK, weights_BHS = np.empty((B, H, K), np.float32), np.empty((B, H, positions_B.max() + 1), np.float32)
    for i in prange(B * H):
        b, h = i // H, i % H
        g = h // (H // G)
        _attend(heads[b, h], k_BGSK[b, g], v_BGSK[b, g], weights_BHS[b, h, : positions_B[b] + 1], mixed_BHK[b, h])
    x_BD += multiply(o, mixed_BHK.reshape(B, H * K))


@njit(parallel=True, fastmath=SUMS, cache=True)
def _feed_forward(x_BD: np.ndarray, norm_D: np.ndarray, gate_up: np.ndarray, down: np.ndarray, eps: np.float32) -> None:
    """Add SwiGLU of the normalised stream to the stream x_BD."""
    M = down.shape[1]
    halves = multiply(gate_up, _normalised(x_BD, norm_D, eps))
    opened_BM = np.empty((x_BD.shape[0], M), np.float32)
    for b in range(x_BD.shape[0]):
        for m in range(M):
            gate = halves[b, m]
            opened_BM[b, m] = halves[b, M + m] * gate / (np.float32(1) + exp(-gate))
    x_BD += multiply(down, opened_BM)


class _Block(NamedTuple):
    attention_norm: np.ndarray
    qkv: np.ndarray
    qk_scale: np.ndarray
    o: np.ndarray
    mlp_norm: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray


class FewRows:
    """Reads tokens of up to `MOST` rows with a model's joined, unpacked weights, over whose memory it works."""

    MOST = 8
    """With more rows, products are bound by arithmetic, and PyTorch's are faster."""

    def __init__(self, model: Qwen3, joined: Sequence[Joined], head_VD: Tensor):
        c = model.config
        self._eps, self._head = np.float32(c.rms_norm_eps), numbers(head_VD)
        self._embedding, self._rope = numbers(model.embedding_weight), (c.head_dim, c.rope_theta)
        self._last_norm = numbers(model.last_norm_weight)
        plain = [(w if isinstance(w, Tensor) else w.weight for w in weights) for weights in joined]
        self._blocks = [_Block(*map(numbers, weights)) for weights in plain]
        announce(multiply, "ten")
        self.read(torch.zeros(1, 1, dtype=torch.int64), model.new_cache(1, 1))  # loads or compiles what it takes

    def read(self, ids_B1: Tensor, cache: Cache) -> Tensor:
        """Append a token to every row of the cache and return logits_BV of the next."""
        x_BD, positions_B1 = self._embedding[ids_B1[:, 0].numpy()], cache.positions(1)
        cos_BF, sin_BF = (table[:, 0, 0].numpy() for table in rope_tables(positions_B1, *self._rope, torch.float32))
        positions_B = positions_B1[:, 0].numpy()
        with running():
            for block, layer_2BGSK in zip(self._blocks, cache.layers_2BGSK, strict=True):
                keys, values = (numbers(part) for part in layer_2BGSK.unbind())
                _attention(x_BD, *block[:4], (cos_BF, sin_BF), keys, values, positions_B, self._eps)
                _feed_forward(x_BD, *block[4:], self._eps)
            logits_BV = multiply(self._head, _normalised(x_BD, self._last_norm, self._eps))
        cache.advance(1)
        return torch.from_numpy(logits_BV)
