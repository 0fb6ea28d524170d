"""One more token a row with the weights frozen: `Qwen3.forward` for T = 1 in few, small operations.

Reading a token costs one pass over the weights; what surrounds the products has to be small beside it, and ordinary
calls are not. `Qwen3.forward` comes here by itself where it can (see `applies`).

Shapes: R rows, D width, H query heads, G key/value heads, N = H + G, K channels of a head, S keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.cache import Cache

if TYPE_CHECKING:
    from danlu.model.qwen3 import Block, Joined, RmsNorm


def applies(ids_BT: Tensor, positions: Tensor | None, segments: Tensor | None, cache: Cache | None) -> bool:
    """Tell whether these are the next tokens of rows of one length, without gradients."""
    plain = positions is None and segments is None and not torch.is_grad_enabled()
    return plain and cache is not None and cache.even and ids_BT.shape[1] == 1


def read_token(
    x_RD: Tensor, blocks: Sequence[Block], joined: Sequence[Joined], rope: tuple[Tensor, Tensor], cache: Cache
) -> Tensor:
    """Return what the last block makes of one embedded token a row; `rope` is that of its one position."""
    cos_F, sin_F = (table.flatten()[: table.shape[-1]] for table in rope)
    cos_K, sin_K = torch.cat([cos_F, cos_F]), torch.cat([-sin_F, sin_F])
    for layer, (block, weights) in enumerate(zip(blocks, joined, strict=True)):
        attention = block.self_attn
        R, G, H = len(x_RD), attention.groups, attention.heads
        qkv = product(norm(x_RD, block.input_layernorm), weights.qkv).view(R, H + 2 * G, -1)
        qk_RNK = F.rms_norm(qkv[:, : H + G], qkv.shape[-1:], eps=attention.eps) * weights.qk_scale.to(x_RD.dtype)
        qk_RNK = torch.addcmul(qk_RNK * cos_K, qk_RNK.roll(len(cos_F), -1), sin_K)
        k_RGSK, v_RGSK = cache.append(layer, qk_RNK[:, H:, None], qkv[:, H + G :, None])
        # the queries that share a key head look at the same keys, as if they were tokens of one head
        y = F.scaled_dot_product_attention(qk_RNK[:, :H].unflatten(1, (G, -1)), k_RGSK, v_RGSK)
        x_RD = x_RD + product(y.reshape(R, -1), weights.o)
        gate, up = product(norm(x_RD, block.post_attention_layernorm), weights.gate_up).chunk(2, -1)
        x_RD = x_RD + product(F.silu(gate) * up, weights.down)
    cache.advance(1)
    return x_RD


def product(x_RD: Tensor, weight_ND: Tensor) -> Tensor:
    """Return x_RN; a single row takes the matrix-vector product, which is faster on a CPU, most of all in bfloat16."""
    return torch.mv(weight_ND, x_RD[0])[None] if len(x_RD) == 1 else F.linear(x_RD, weight_ND)


def norm(x_RD: Tensor, scale: RmsNorm) -> Tensor:
    """Divide by the root mean square, then scale."""
    return F.rms_norm(x_RD, x_RD.shape[-1:], scale.weight.to(x_RD.dtype), scale.eps)
