"""A Qwen3 block's training on a CPU: matrix products by a library, all that lies between two of them in one pass.

Ordinary operations pass over memory once each, and keep what their backward needs. Here the passes are compiled (see
`passes`), and the backward makes anew what is cheap: normalised rows, queries and keys, attention's weights, opened
gates. Of a block only its inputs, q k v as projected, what attention found, and gate and up are kept.
numba is optional (extra [fast]); the same in plain formulas is `qwen3.Block`, and `loss`.

Shapes: N tokens (B rows of T), D width, H query heads, E heads as projected (see `fused_attention`), K channels of a
head, F = K/2 pairs of channels, M inner width, C chunks of rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from danlu.config import Qwen3Config
from danlu.model import blas, fused_attention, passes
from danlu.model.compiled import numbers, running
from danlu.model.fused_attention import Shared
from danlu.model.layers import positions_in_segments, rope_tables
from danlu.model.rooms import Rooms, copied
from danlu.types import IGNORED

if TYPE_CHECKING:
    from danlu.model.qwen3 import Joined


def blocks(
    x_BTD: Tensor, joined: Sequence[Joined], config: Qwen3Config, positions: Tensor, segments: Tensor | None
) -> Tensor:
    """Pass the stream through all blocks, for weights without adapters.

    `positions_BT`, or `positions_1T`; a token looks at itself and before it, with `segments_BT` in its own document.
    """
    from danlu.model import warm  # which imports the model that imports this

    by_openblas = blas.by_openblas(x_BTD)
    warm.ensure(x_BTD.dtype, "numpy" if by_openblas else "torch")
    c, (B, T) = config, x_BTD.shape[:2]
    tables = rope_tables(positions, c.head_dim, c.rope_theta, torch.float32)
    cos, sin = (numbers(t).reshape(-1, c.head_dim // 2) for t in tables)
    first = torch.zeros(B, T, dtype=torch.int64)
    if segments is not None:
        first = torch.arange(T) - positions_in_segments(segments)
    sizes = c.num_attention_heads, c.num_key_value_heads, np.float32(c.rms_norm_eps)
    whole = by_openblas and B * c.num_key_value_heads >= torch.get_num_threads()  # a pair is one thread's
    shared = Shared(Rooms(), whole, *sizes, cos, sin, numbers(first))
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
    def forward(ctx: Any, x_ND: Tensor, norm_D: Tensor, gate_up: Tensor, down_DM: Tensor, shared: Shared) -> Tensor:
        ctx.eps, ctx.spent = shared.eps, False
        gate_up_N2M = blas.product(_normalised(x_ND, norm_D, shared.eps, shared.rooms), gate_up.mT)
        ctx.save_for_backward(x_ND, norm_D, gate_up, down_DM, gate_up_N2M)
        opened_NM = shared.rooms.room("opened", x_ND, len(x_ND), down_DM.shape[1])
        with running():
            passes.open_gates(numbers(gate_up_N2M), numbers(opened_NM))
        return blas.add_product(copied(x_ND), opened_NM, down_DM.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, gate_up, down_DM, gate_up_N2M = ctx.saved_tensors
        if ctx.spent:
            raise RuntimeError("the backward of compiled blocks overwrites what their forward kept: it can run once")
        ctx.spent = True
        slope_ND = upstream[0].contiguous()
        opened_NM = blas.product(slope_ND, down_DM)
        with running():
            passes.open_gates_back(numbers(gate_up_N2M), numbers(opened_NM))
        down_grad = blas.product(slope_ND.mT, opened_NM)
        del opened_NM
        return *_before(ctx.eps, x_ND, norm_D, gate_up, gate_up_N2M, slope_ND), down_grad, None


class _Attention(torch.autograd.Function):
    """x + o(attention) of normalised x."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, norm_D: Tensor, qkv: Tensor, qk_scale: Tensor, o_DHK: Tensor, shared: Shared
    ) -> Tensor:
        ctx.shared = shared
        qkv_NEK = blas.product(_normalised(x_ND, norm_D, shared.eps, shared.rooms), qkv.mT).unflatten(
            1, (-1, qk_scale.shape[1])
        )
        mixed_NHK, logsum = fused_attention.attend(qkv_NEK, qk_scale, shared)
        ctx.save_for_backward(x_ND, norm_D, qkv, qk_scale, o_DHK, qkv_NEK, mixed_NHK, logsum)
        return blas.add_product(copied(x_ND), mixed_NHK, o_DHK.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, qkv, qk_scale, o_DHK, qkv_NEK, mixed_NHK, logsum = ctx.saved_tensors
        slope_ND = upstream[0].contiguous()
        o_grad = blas.product(slope_ND.mT, mixed_NHK)
        mixed_slope = blas.product(slope_ND, o_DHK)
        qkv_slope, scale_grad = fused_attention.attend_back(qkv_NEK, qk_scale, ctx.shared, logsum, mixed_slope)
        x_grad, norm_grad, qkv_grad = _before(ctx.shared.eps, x_ND, norm_D, qkv, qkv_slope, slope_ND)
        return x_grad, norm_grad, qkv_grad, scale_grad, o_grad, None


def _normalised(x_ND: Tensor, norm_D: Tensor, eps: np.float32, rooms: Rooms) -> Tensor:
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
    weight_grad = blas.product(slope.mT, _normalised(x_ND, norm_D, eps, Rooms()))
    normal_slope = blas.product(slope, weight)
    scale_grad_CD = norm_D.new_zeros(passes.CHUNKS, len(norm_D))
    with running():
        given = numbers(x_ND), numbers(norm_D), numbers(stream_ND)
        passes.normalise_rows_back(*given, numbers(normal_slope), numbers(scale_grad_CD), eps)
    return normal_slope, scale_grad_CD.sum(0), weight_grad


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
