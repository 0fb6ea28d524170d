"""A Qwen3 block's training on a CPU: matrix products by PyTorch, all that lies between two of them in one pass.

Ordinary operations pass over memory once each, and keep what their backward needs. Here the passes are compiled (see
`passes`), and the backward makes anew what is cheap: normalised rows, queries and keys, attention's weights, opened
gates. Of a block only its inputs, q k v as projected, what attention found, and gate and up are kept.
Bands of queries look at the keys up to their end, as in `kernels.causal_attention`; a document's mask costs nothing.
numba is optional (extra [fast]); the same in plain formulas is `qwen3.Block`, and `loss`.

Shapes: N tokens (B rows of T), D width, H query heads, G key/value heads, R = H/G, E = H + 2G heads as projected,
K channels of a head, F = K/2 pairs of channels, M inner width, P = B·G pairs of a row and a key head,
Q = B·H·T queries, S keys, C chunks of rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from danlu.config import Qwen3Config
from danlu.model import passes
from danlu.model.compiled import announce, numbers, running
from danlu.model.layers import positions_in_segments, rope_tables
from danlu.types import IGNORED

if TYPE_CHECKING:
    from danlu.model.qwen3 import Joined

announce(passes.nll_rows, "twenty")


class _Rooms(dict[str, Tensor]):
    """Memory that each block of a forward uses anew, so that what is kept for the backward lies without gaps."""

    def room(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of `like`'s type, with whatever is in it."""
        wanted = math.prod(shape)
        if name not in self or len(self[name]) < wanted:
            self[name] = like.new_empty(wanted)
        return self[name][:wanted].view(shape)


class _Shared(NamedTuple):
    """What all blocks of a forward share. `first_BT`: the first position that a token may look at."""

    rooms: _Rooms
    heads: int
    groups: int
    eps: np.float32
    cos_TF: np.ndarray
    sin_TF: np.ndarray
    first_BT: np.ndarray


def blocks(
    x_BTD: Tensor, joined: Sequence[Joined], config: Qwen3Config, positions: Tensor, segments: Tensor | None
) -> Tensor:
    """Pass the stream through all blocks, for weights without adapters.

    `positions_BT`, or `positions_1T`; a token looks at itself and before it, with `segments_BT` in its own document.
    """
    c, (B, T) = config, x_BTD.shape[:2]
    tables = rope_tables(positions, c.head_dim, c.rope_theta, torch.float32)
    cos, sin = (numbers(t).reshape(-1, c.head_dim // 2) for t in tables)
    first = torch.zeros(B, T, dtype=torch.int64)
    if segments is not None:
        first = torch.arange(T) - positions_in_segments(segments)
    sizes = c.num_attention_heads, c.num_key_value_heads, np.float32(c.rms_norm_eps)
    shared = _Shared(_Rooms(), *sizes, cos, sin, numbers(first))
    x_ND = x_BTD.flatten(0, 1)
    attention: Any = _Attention.apply
    feed_forward: Any = _FeedForward.apply
    for w in joined:
        x_ND = attention(x_ND, w.attention_norm, w.qkv.weight, w.qk_scale, w.o.weight, shared)
        x_ND = feed_forward(x_ND, w.mlp_norm, w.gate_up.weight, w.down.weight, shared)
    shared.rooms.clear()
    return x_ND.view_as(x_BTD)


class _FeedForward(torch.autograd.Function):
    """x + down(silu(gate) · up) of normalised x."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, norm_D: Tensor, gate_up: Tensor, down_DM: Tensor, shared: _Shared) -> Tensor:
        ctx.eps = shared.eps
        gate_up_N2M = torch.mm(_normalised(x_ND, norm_D, shared.eps, shared.rooms), gate_up.mT)
        ctx.save_for_backward(x_ND, norm_D, gate_up, down_DM, gate_up_N2M)
        opened_NM = shared.rooms.room("opened", x_ND, len(x_ND), down_DM.shape[1])
        with running():
            passes.open_gates(numbers(gate_up_N2M), numbers(opened_NM))
        return torch.addmm(x_ND, opened_NM, down_DM.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, gate_up, down_DM, gate_up_N2M = ctx.saved_tensors
        slope_ND = upstream[0].contiguous()
        opened_NM, gate_up_slope = torch.mm(slope_ND, down_DM), torch.empty_like(gate_up_N2M)
        with running():
            passes.open_gates_back(numbers(gate_up_N2M), numbers(opened_NM), numbers(gate_up_slope))
        down_grad = torch.mm(slope_ND.mT, opened_NM)
        del opened_NM
        return *_before(ctx.eps, x_ND, norm_D, gate_up, gate_up_slope, slope_ND), down_grad, None


class _Attention(torch.autograd.Function):
    """x + o(attention) of normalised x."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, norm_D: Tensor, qkv: Tensor, qk_scale: Tensor, o_DHK: Tensor, shared: _Shared
    ) -> Tensor:
        ctx.shared = shared
        qkv_NEK = torch.mm(_normalised(x_ND, norm_D, shared.eps, shared.rooms), qkv.mT).unflatten(
            1, (-1, qk_scale.shape[1])
        )
        mixed_NHK, logsum_Q = _attend(qkv_NEK, qk_scale, shared)
        ctx.save_for_backward(x_ND, norm_D, qkv, qk_scale, o_DHK, qkv_NEK, mixed_NHK, logsum_Q)
        return torch.addmm(x_ND, mixed_NHK, o_DHK.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, qkv, qk_scale, o_DHK, qkv_NEK, mixed_NHK, logsum_Q = ctx.saved_tensors
        slope_ND = upstream[0].contiguous()
        o_grad = torch.mm(slope_ND.mT, mixed_NHK)
        mixed_slope = torch.mm(slope_ND, o_DHK)
        qkv_slope, scale_grad = _attend_back(qkv_NEK, qk_scale, ctx.shared, logsum_Q, mixed_slope)
        x_grad, norm_grad, qkv_grad = _before(ctx.shared.eps, x_ND, norm_D, qkv, qkv_slope, slope_ND)
        return x_grad, norm_grad, qkv_grad, scale_grad, o_grad, None


def _normalised(x_ND: Tensor, norm_D: Tensor, eps: np.float32, rooms: _Rooms) -> Tensor:
    out_ND = rooms.room("normal", x_ND, *x_ND.shape)
    with running():
        passes.normalise_rows(numbers(x_ND), numbers(norm_D), eps, numbers(out_ND))
    return out_ND


def _before(
    eps: np.float32, x_ND: Tensor, norm_D: Tensor, weight: Tensor, slope: Tensor, stream_ND: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, the norm's scales and the weight of weight·norm(x), whose slope is given.

    The stream's slope, which passes by the norm, is added to x's.
    """
    weight_grad = torch.mm(slope.mT, _normalised(x_ND, norm_D, eps, _Rooms()))
    normal_slope = torch.mm(slope, weight)
    scale_grad_CD = norm_D.new_zeros(passes.CHUNKS, len(norm_D))
    with running():
        given = numbers(x_ND), numbers(norm_D), numbers(stream_ND)
        passes.normalise_rows_back(*given, numbers(normal_slope), numbers(scale_grad_CD), eps)
    return normal_slope, scale_grad_CD.sum(0), weight_grad


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


def _split(qkv_NEK: Tensor, qk_scale: Tensor, shared: _Shared, rooms: _Rooms) -> _Heads:
    """Normalise and rotate queries and keys."""
    (B, T), K, H, G = shared.first_BT.shape, qk_scale.shape[1], shared.heads, shared.groups
    k, v = (rooms.room(name, qkv_NEK, B * G, T, K) for name in "kv")
    heads = _Heads(rooms.room("q", qkv_NEK, B * H * T, K), k, v)
    with running():
        tables = numbers(qkv_NEK), numbers(qk_scale), shared.cos_TF, shared.sin_TF
        passes.split_heads(*tables, shared.eps, *(numbers(t) for t in heads))
    return heads


def _attend(qkv_NEK: Tensor, qk_scale: Tensor, shared: _Shared) -> tuple[Tensor, Tensor]:
    """Return what each token's heads found, and of each query the logarithm of its weights' sum."""
    (B, T), K, G = shared.first_BT.shape, qk_scale.shape[1], shared.groups
    heads = _split(qkv_NEK, qk_scale, shared, shared.rooms)
    mixed_BTGRK = qkv_NEK.new_empty(B, T, G, shared.heads // G, K)
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


def _attend_back(
    qkv_NEK: Tensor, qk_scale: Tensor, shared: _Shared, logsum_Q: Tensor, mixed_slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slopes of qkv as projected and of the norms' scales."""
    (B, T), K, G = shared.first_BT.shape, qk_scale.shape[1], shared.groups
    heads = _split(qkv_NEK, qk_scale, shared, _Rooms())
    slopes = _Heads(torch.empty_like(heads.q_QK), torch.zeros_like(heads.k_PSK), torch.zeros_like(heads.v_PSK))
    mixed_BTGRK = mixed_slope.view(B, T, G, shared.heads // G, K)
    for band in _bands(T):
        q, k, v = heads.of_band(band, heads.q_QK), heads.k_PSK[:, : band.stop], heads.v_PSK[:, : band.stop]
        found_slope = mixed_BTGRK[:, band].permute(0, 2, 3, 1, 4).reshape(B * G, -1, K)
        weights, weights_slope = torch.bmm(q, k.mT), torch.bmm(found_slope, v.mT)
        with running():
            arrays = numbers(weights), numbers(weights_slope), numbers(heads.of_band(band, logsum_Q)), shared.first_BT
            passes.softmax_back(*arrays, band.start, np.float32(1 / math.sqrt(K)))
        torch.bmm(weights_slope, k, out=heads.of_band(band, slopes.q_QK))
        slopes.k_PSK[:, : band.stop] += torch.bmm(weights_slope.mT, q)
        slopes.v_PSK[:, : band.stop] += torch.bmm(weights.mT, found_slope)
    qkv_slope, scale_grad = torch.empty_like(qkv_NEK), qk_scale.new_zeros(passes.CHUNKS, *qk_scale.shape)
    with running():
        tables = numbers(qkv_NEK), numbers(qk_scale), shared.cos_TF, shared.sin_TF
        passes.split_heads_back(*tables, shared.eps, *(numbers(t) for t in (*slopes, qkv_slope, scale_grad)))
    return qkv_slope.flatten(1), scale_grad.sum(0)


def nll(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Return nll_N in nats, 0 where the label is -100, and turn the logits into its slope by them, in place."""
    entries = logits_NV.shape[1]
    strangers_N = (labels_N != IGNORED) & ((labels_N < 0) | (labels_N >= entries))
    if strangers_N.any():
        raise IndexError(f"label {labels_N[strangers_N][0]} is none of {entries} entries")
    nll_N = torch.empty(len(labels_N))
    with running():
        passes.nll_rows(numbers(logits_NV), numbers(labels_N), numbers(nll_N))
    return nll_N
