"""Attention of `fused`: between its products one pass each, or compiled as a whole where products are OpenBLAS's.

PyTorch's products take all pairs of row and key head at once. Bands of queries look at the keys up to their end, as in
`kernels.causal_attention`; a document's mask costs nothing. The backward makes queries, keys and weights anew.

Shapes: N tokens (B rows of T), H query heads, G key/value heads, R = H/G, E = H + 2G heads as projected,
K channels of a head, F = K/2 pairs of channels, P = B·G pairs of a row and a key head, Q = B·H·T queries, S keys.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from danlu.model import passes
from danlu.model.compiled import numbers, running
from danlu.model.rooms import Rooms, room


class Shared(NamedTuple):
    """What all blocks of a forward share.

    `whole`: attention is compiled as a whole; `first_BT`: the first position that a token may look at.
    """

    rooms: Rooms
    whole: bool
    heads: int
    groups: int
    eps: np.float32
    cos_TF: np.ndarray
    sin_TF: np.ndarray
    first_BT: np.ndarray


def _bands(T: int) -> list[slice]:
    return [slice(start, min(start + passes.BAND, T)) for start in range(0, T, passes.BAND)]


class _Heads(NamedTuple):
    """Queries, keys and values as attention takes them; a band's queries lie together (see `_place`)."""

    q_QK: Tensor
    k_PSK: Tensor
    v_PSK: Tensor

    def of_band(self, band: slice, rows_QX: Tensor) -> Tensor:
        """Return a band's rows, by pair of row and key head, of a tensor that has a row for each query."""
        P, T = self.k_PSK.shape[:2]
        per_position = len(self.q_QK) // T
        return rows_QX[per_position * band.start : per_position * band.stop].unflatten(0, (P, -1))


def _split(qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared, rooms: Rooms) -> _Heads:
    """Normalise and rotate queries and keys."""
    (B, T), K, H, G = shared.first_BT.shape, qk_scale.shape[1], shared.heads, shared.groups
    k, v = (rooms.room(name, qkv_NEK, B * G, T, K) for name in "kv")
    heads = _Heads(rooms.room("q", qkv_NEK, B * H * T, K), k, v)
    with running():
        tables = numbers(qkv_NEK), numbers(qk_scale), shared.cos_TF, shared.sin_TF
        passes.split_heads(*tables, shared.eps, *(numbers(t) for t in heads))
    return heads


def attend(qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared) -> tuple[Tensor, Tensor]:
    """Return what each token's heads found, and of each query the logarithm of its weights' sum."""
    if shared.whole:
        return _attend_whole(qkv_NEK, qk_scale, shared)
    (B, T), K, G = shared.first_BT.shape, qk_scale.shape[1], shared.groups
    heads = _split(qkv_NEK, qk_scale, shared, shared.rooms)
    mixed_BTGRK = room(qkv_NEK, B, T, G, shared.heads // G, K)
    logsum_Q = qk_scale.new_empty(len(heads.q_QK))
    for band in reversed(_bands(T)):  # the one that takes most room first
        q, k, v = heads.of_band(band, heads.q_QK), heads.k_PSK[:, : band.stop], heads.v_PSK[:, : band.stop]
        weights = torch.bmm(q, k.mT, out=shared.rooms.room("weights", q, *q.shape[:2], band.stop))
        with running():
            arrays = numbers(weights), numbers(heads.of_band(band, logsum_Q)), shared.first_BT
            passes.softmax(*arrays, band.start, np.float32(1 / math.sqrt(K)))
        found = torch.bmm(weights, v, out=shared.rooms.room("found", q, *q.shape))
        mixed_BTGRK[:, band] = found.view(B, G, shared.heads // G, -1, K).permute(0, 3, 1, 2, 4)
    return mixed_BTGRK.view(B * T, -1), logsum_Q


def attend_back(
    qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared, logsum: Tensor, mixed_slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slopes of qkv as projected and of the norms' scales."""
    if shared.whole:
        return _attend_whole_back(qkv_NEK, qk_scale, shared, logsum, mixed_slope)
    (B, T), K, G = shared.first_BT.shape, qk_scale.shape[1], shared.groups
    heads = _split(qkv_NEK, qk_scale, shared, Rooms())
    slopes = _Heads(*(room(t, *t.shape) for t in heads))
    slopes.k_PSK.zero_()
    slopes.v_PSK.zero_()
    mixed_BTGRK = mixed_slope.view(B, T, G, shared.heads // G, K)
    rooms = Rooms()
    for band in reversed(_bands(T)):
        q, k, v = heads.of_band(band, heads.q_QK), heads.k_PSK[:, : band.stop], heads.v_PSK[:, : band.stop]
        found_slope = mixed_BTGRK[:, band].permute(0, 2, 3, 1, 4).reshape(B * G, -1, K)
        weights, weights_slope = (rooms.room(name, q, *q.shape[:2], band.stop) for name in ("weights", "slope"))
        torch.bmm(q, k.mT, out=weights)
        torch.bmm(found_slope, v.mT, out=weights_slope)
        with running():
            arrays = numbers(weights), numbers(weights_slope), numbers(heads.of_band(band, logsum)), shared.first_BT
            passes.softmax_back(*arrays, band.start, np.float32(1 / math.sqrt(K)))
        torch.bmm(weights_slope, k, out=heads.of_band(band, slopes.q_QK))
        slopes.k_PSK[:, : band.stop].baddbmm_(weights_slope.mT, q)
        slopes.v_PSK[:, : band.stop].baddbmm_(weights.mT, found_slope)
    qkv_slope = room(qkv_NEK, *qkv_NEK.shape)
    scale_grad = qk_scale.new_zeros(passes.CHUNKS, *qk_scale.shape)
    with running():
        tables = numbers(qkv_NEK), numbers(qk_scale), shared.cos_TF, shared.sin_TF
        passes.split_heads_back(*tables, shared.eps, *(numbers(t) for t in (*slopes, qkv_slope, scale_grad)))
    return qkv_slope.flatten(1), scale_grad.sum(0)


def _attend_whole(qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared) -> tuple[Tensor, Tensor]:
    from danlu.model import whole_attention

    N, K = len(qkv_NEK), qk_scale.shape[1]
    mixed_NHK, logsum_NH = room(qkv_NEK, N, shared.heads, K), room(qkv_NEK, N, shared.heads)
    with running():
        whole_attention.attend(*_given(qkv_NEK, qk_scale, shared), numbers(mixed_NHK), numbers(logsum_NH))
    return mixed_NHK.flatten(1), logsum_NH


def _attend_whole_back(
    qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared, logsum_NH: Tensor, mixed_slope: Tensor
) -> tuple[Tensor, Tensor]:
    from danlu.model import whole_attention

    pairs = shared.first_BT.shape[0] * shared.groups
    qkv_slope = room(qkv_NEK, *qkv_NEK.shape)
    scale_grad = qk_scale.new_zeros(pairs, *qk_scale.shape)
    tensors = logsum_NH, mixed_slope.unflatten(1, (shared.heads, -1)), qkv_slope, scale_grad
    with running():
        whole_attention.attend_back(*_given(qkv_NEK, qk_scale, shared), *(numbers(t) for t in tensors))
    return qkv_slope.flatten(1), scale_grad.sum(0)


def _given(qkv_NEK: Tensor, qk_scale: Tensor, shared: Shared) -> tuple[Any, Any, Any, Any, Any, Any]:
    return numbers(qkv_NEK), numbers(qk_scale), shared.cos_TF, shared.sin_TF, shared.eps, shared.first_BT
