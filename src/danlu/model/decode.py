"""One more token of one row on a CPU: `Qwen3.forward` for B = T = 1 in few, small operations.

Reading a token costs one pass over the weights. Ordinary calls around the products cost as much again: each is
small, and while they run the other cores fall asleep. So here a row is a vector, the residual stream is added to in
place, a layer's learned scales and its rotation are one factor, and keys and values are stored by one copy.
`Qwen3.forward` comes here by itself where it can.

Shapes: D width, H query heads, G key/value heads, N = H + G, K channels of a head, S keys, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from danlu.model.cache import Cache
from danlu.model.layers import rope_tables

if TYPE_CHECKING:
    from danlu.model.qwen3 import Joined, Qwen3

_TABLE = 256
"""Positions whose rotation is computed at once."""


def applies(ids_BT: Tensor, positions: Tensor | None, segments: Tensor | None, cache: Cache | None) -> bool:
    """Tell whether this is the next token of a single row on a CPU, without gradients."""
    plain = positions is None and segments is None and not torch.is_grad_enabled()
    return plain and cache is not None and ids_BT.shape == (1, 1) and ids_BT.device.type == "cpu"


class OneRow:
    """Reads tokens with a model's frozen weights."""

    def __init__(self, model: Qwen3, joined: Sequence[Joined], head_VD: Tensor):
        c = model.config
        self.heads, self.groups, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.theta, self.eps, self.dtype = c.rope_theta, c.rms_norm_eps, model.compute_dtype
        self.embedding_VD, self.last_norm, self.head_VD = model.model.embed_tokens.weight, model.model.norm, head_VD
        self.layers = list(joined)
        self.scale_LNK = torch.stack([weights.qk_scale for weights in joined])
        self._table_start, self._table = -1, (self.scale_LNK, self.scale_LNK)

    def read(self, ids_BT: Tensor, cache: Cache) -> Tensor:
        """Append a token to the cache and return logits_V of the next. The stream is kept in float32."""
        H, G, K, dtype, position = self.heads, self.groups, self.head_dim, self.dtype, cache.lengths[0]
        x_D = self.embedding_VD[ids_BT[0, 0]].float().clone()
        for layer, (weights, rotation) in enumerate(zip(self.layers, self._rotations(position), strict=True)):
            heads = torch.mv(weights.qkv.weight, self._norm(x_D, weights.attention_norm)).view(H + 2 * G, K)
            _normalise_and_rotate(heads[: H + G], rotation, self.eps)
            k_GSK, v_GSK = cache.append_token(layer, heads[H:].view(2, G, K))
            # the queries that share a key head look at the same keys, as if they were tokens of one head
            mixed = F.scaled_dot_product_attention(heads[:H].view(1, G, H // G, K), k_GSK[None], v_GSK[None])
            x_D += torch.mv(weights.o.weight, mixed.view(-1))
            gate, up = torch.mv(weights.gate_up.weight, self._norm(x_D, weights.mlp_norm)).chunk(2)
            x_D += torch.mv(weights.down.weight, F.silu(gate).mul_(up))
        cache.advance(1)
        return torch.mv(self.head_VD, self._norm(x_D, self.last_norm.weight)).to(dtype)

    def _norm(self, x_D: Tensor, scale_D: Tensor) -> Tensor:
        """Divide by the root mean square, then scale: the sum of squares is a Python number, for one row."""
        mean_square = torch.dot(x_D, x_D).item() / len(x_D)
        return (x_D * scale_D).mul_((mean_square + self.eps) ** -0.5).to(self.dtype)

    def _rotations(self, position: int) -> zip[tuple[Tensor, Tensor]]:
        """Yield for every layer what channel i of a query or key counts by, and channel i + K/2, as NK each."""
        start = position - position % _TABLE
        if start != self._table_start:
            positions = torch.arange(start, start + _TABLE)[None]
            cos, sin = (t.flatten(0, 2) for t in rope_tables(positions, self.head_dim, self.theta, torch.float32))
            self._table_start, self._table = start, (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
        cos_K, sin_K = (table[position - start] for table in self._table)
        swapped_LNK = self.scale_LNK.roll(self.head_dim // 2, -1)
        own_LNK, other_LNK = (self.scale_LNK * cos_K).to(self.dtype), (swapped_LNK * sin_K).to(self.dtype)
        return zip(own_LNK.unbind(), other_LNK.unbind(), strict=True)


def _normalise_and_rotate(qk_NK: Tensor, rotation: tuple[Tensor, Tensor], eps: float) -> None:
    """Norm, learned scale, and rotary position of queries and keys, in place."""
    own_NK, other_NK = rotation
    inverse_N = vecdot(qk_NK, qk_NK).mul_(1 / qk_NK.shape[1]).add_(eps).rsqrt_()
    normal_NK = qk_NK * inverse_N[:, None]
    torch.addcmul(normal_NK * own_NK, normal_NK.roll(qk_NK.shape[1] // 2, -1), other_NK, out=qk_NK)
