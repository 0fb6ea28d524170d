"""Hand-written forward and backward of what PyTorch computes in many passes.

Each function here equals a few lines of ordinary PyTorch (the tests compare them, values and gradients); what it
saves is passes over memory, which bound a small model's step. `torch.compile` gets those few lines, and fuses them.

Shapes: B rows, T tokens, S keys, H query heads, G key/value heads, R = H/G, K channels of a head.
"""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 128
_PACKED_FOR = 32
"""Rows that oneDNN is told to expect: measured, from 1 to 512 rows are as fast with it as with their own number."""


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_().div_(x.shape[-1])
        inverse = mean.add_(eps).rsqrt_().to(x.dtype)
        normal = x * inverse
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        normal, inverse, weight = ctx.saved_tensors
        product = upstream[0] * normal
        weight_grad = product.flatten(0, normal.dim() - weight.dim() - 1).sum(0, dtype=torch.float32)
        scale = weight.to(normal.dtype)
        along = product.mul_(scale).sum(-1, keepdim=True)
        across = upstream[0] * scale
        x_grad = across.addcmul_(normal, along, value=-1 / normal.shape[-1]).mul_(inverse)
        return x_grad, weight_grad.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last dimension, then scale; `weight` covers x's last dimensions.

    The mean is taken in float32. Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    if torch.compiler.is_compiling():
        inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
        return (x * inverse.to(x.dtype)) * weight.to(x.dtype)
    return _RmsNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(upstream[0], cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    result = torch.empty_like(x)
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin, value=direction)
    return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every pair of channels (i, i + K/2) of x by an angle; cos and sin have K/2 channels."""
    if torch.compiler.is_compiling():
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return _Rotate.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        result = torch.empty_like(gate_up)
        gate_grad, up_grad = result.chunk(2, -1)
        torch.mul(opened, upstream[0], out=up_grad)
        torch.ops.aten.silu_backward.grad_input(upstream[0] * up, gate, grad_input=gate_grad)
        return result


def swiglu(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) · up of the two halves of the last dimension.

    The backward writes both halves' gradients where they belong; PyTorch's own would join them by a copy.
    Source: Shazeer 2020, arXiv:2002.05202.
    """
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    return _SwiGlu.apply(gate_up)  # pyright: ignore[reportReturnType]


class _CausalAttention(torch.autograd.Function):
    """Softmax attention in blocks of queries, each against the keys up to its end; keeps the probabilities.

    With a mask a block leaves out the keys before the first that any of its queries may look at.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        B, H, T, K = q_BHTK.shape
        G = k_BGTK.shape[1]
        q, k, v = q_BHTK.reshape(B, G, H // G, T, K), k_BGTK.reshape(B * G, T, K), v_BGTK.reshape(B * G, T, K)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        weights, ctx.lows = [], []
        for start in range(0, T, _BLOCK):
            stop, low = min(start + _BLOCK, T), 0
            q_block = _merged(q[:, :, :, start:stop]) * (1 / math.sqrt(K))
            if mask_B1TT is None:
                scores = torch.bmm(q_block, k[:, :stop].mT)
                future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu_(1)
                scores.unflatten(1, (H // G, -1))[..., start:].masked_fill_(future, -torch.inf)
            else:
                mask = mask_B1TT[:, :, start:stop, :stop]
                low = int(mask.flatten(0, 2).any(0).byte().argmax())
                scores = torch.bmm(q_block, k[:, low:stop].mT)
                unseen = mask[:, :, None, :, low:].logical_not()
                scores.view(B, G, H // G, stop - start, -1).masked_fill_(unseen, -torch.inf)
            weight = torch.softmax(scores, -1)
            out[:, :, :, start:stop] = torch.bmm(weight, v[:, low:stop]).view(B, G, H // G, stop - start, K)
            weights.append(weight)
            ctx.lows.append(low)
        ctx.save_for_backward(q, k, v, *weights)
        return out.view(B, H, T, K)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        B, G, R, T, K = q.shape
        g = upstream[0].reshape(B, G, R, T, K)
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start, low, weight in zip(range(0, T, _BLOCK), ctx.lows, weights, strict=True):
            stop = min(start + _BLOCK, T)
            g_block, q_block = _merged(g[:, :, :, start:stop]), _merged(q[:, :, :, start:stop])
            v_grad[:, low:stop] += torch.bmm(weight.mT, g_block)
            weight_grad = torch.bmm(g_block, v[:, low:stop].mT)
            slope = torch.ops.aten._softmax_backward_data(weight_grad, weight, -1, weight.dtype).mul_(1 / math.sqrt(K))
            q_grad[:, :, :, start:stop] = torch.bmm(slope, k[:, low:stop]).view(B, G, R, stop - start, K)
            k_grad[:, low:stop] += torch.bmm(slope.mT, q_block)
        return q_grad.view(B, G * R, T, K), k_grad.view(B, G, T, K), v_grad.view(B, G, T, K), None


def _merged(x_BGRNK: Tensor) -> Tensor:
    """Return (B·G, R·N, K): the query heads that share a key head, one after another."""
    return x_BGRNK.flatten(2, 3).flatten(0, 1)


def causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask_B1TT: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ/√K + causal mask) v, groups of H/G query heads sharing a key head.

    A mask given says instead where a token may look: at itself, and before it at some or all.
    In training on a CPU this is faster than the fused kernel, whose backward is slow there; it keeps
    B·H·T²/2 probabilities for the backward.
    """
    return _CausalAttention.apply(q_BHTK, k_BGTK, v_BGTK, mask_B1TT)  # pyright: ignore[reportReturnType]


def pack(weight_NK: Tensor) -> Tensor:
    """Return a matrix for `linear` as oneDNN reads it fastest, if this machine gains by it; otherwise as it is.

    For few rows on a CPU: the product is bound by reading the weights, and a plain matrix is read badly.
    """
    if weight_NK.device.type != "cpu" or not _packing_pays(weight_NK.dtype, torch.get_num_threads()):
        return weight_NK
    return _packed(weight_NK)


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Multiply the last dimension of x by a matrix, which may be packed; no gradients then."""
    if weight_NK.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight_NK, None, "none", [], "")
    return F.linear(x, weight_NK)


def _packed(weight_NK: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_NK.detach(), _PACKED_FOR)


@cache
def _packing_pays(dtype: torch.dtype, threads: int) -> bool:
    """Compare products of a few rows by matrices that lie in memory, not in a cache.

    Packing is taken unless it is clearly slower: on a busy machine such short times say little.
    """
    with torch.inference_mode():
        plain = [torch.randn(1024, 1024).to(dtype) for _ in range(6)]
        rows = [torch.randn(R, 1024).to(dtype) for R in (1, 8)]
        try:
            packed = [_packed(weight) for weight in plain]
            torch.testing.assert_close(linear(rows[1], packed[0]), F.linear(rows[1], plain[0]), rtol=0.02, atol=1)
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError):
            return False  # no oneDNN in this build of PyTorch, or none for this CPU and type
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(4):
            for weights in (plain, packed):
                start = time.perf_counter()
                for x in rows:
                    for weight in weights:
                        linear(x, weight)
                seconds[weights is packed].append(time.perf_counter() - start)
    return min(seconds[True]) < 1.2 * min(seconds[False])
