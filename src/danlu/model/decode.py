"""One more token of every row on a CPU: `Qwen3.forward` for T = 1 in few, small operations.

Reading a token costs one pass over the weights. Ordinary calls around the products cost as much again: each is
small, and while they run the other cores fall asleep. So here the residual stream is added to in place, a layer's
learned scales and its rotation are one factor, and keys and values are stored by one copy.
`Qwen3.forward` comes here by itself where it can. Few rows may be read by compiled code: see `few_rows`.

Shapes: B rows, D width, H query heads, G key/value heads, N = H + G, K channels of a head, S keys, L layers,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from danlu.model.cache import Cache
from danlu.model.kernels import linear
from danlu.model.layers import rope_tables

if TYPE_CHECKING:
    from danlu.model.few_rows import FewRows
    from danlu.model.qwen3 import Joined, Qwen3


def applies(ids_BT: Tensor, positions: Tensor | None, segments: Tensor | None, cache: Cache | None) -> bool:
    """Tell whether this is the next token of every row on a CPU, without gradients."""
    plain = positions is None and segments is None and not torch.is_grad_enabled()
    return plain and cache is not None and ids_BT.shape[1] == 1 and ids_BT.device.type == "cpu"


class NextTokens:
    """Reads tokens with a model's frozen weights. The stream is kept in float32."""

    def __init__(self, model: Qwen3, plain: tuple[Sequence[Joined], Tensor], packed: tuple[Sequence[Joined], Tensor]):
        """Take the joined weights and the head as they are, and as `kernels.pack` lays them out."""
        self.few_rows = _compiled(model, *plain)
        joined, head_VD = packed
        c = model.config
        self.heads, self.groups, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.theta, self.dtype = c.rope_theta, model.compute_dtype
        self.eps = torch.tensor(c.rms_norm_eps)
        self.embedding_VD, self.last_norm, self.head_VD = model.model.embed_tokens.weight, model.model.norm, head_VD
        self.layers = list(joined)
        self.scale_LNK = torch.stack([weights.qk_scale for weights in joined])

    def read(self, ids_B1: Tensor, cache: Cache) -> Tensor:
        """Append a token to every row of the cache and return logits_BV of the next."""
        if self.few_rows and len(ids_B1) <= self.few_rows.MOST:
            return self.few_rows.read(ids_B1, cache).to(self.dtype)
        H, G = self.heads, self.groups
        x_BD = F.embedding(ids_B1[:, 0], self.embedding_VD)
        mask, places = cache.mask(1), cache.next_places()
        for layer, (weights, rotation) in enumerate(zip(self.layers, self._rotations(cache), strict=True)):
            normal_BD = self._norm(x_BD, weights.attention_norm)
            heads_BNK = linear(normal_BD, weights.qkv.weight).unflatten(1, (H + 2 * G, -1))
            _normalise_and_rotate(heads_BNK[:, : H + G], rotation, self.eps)
            k_BGSK, v_BGSK = cache.append_tokens(layer, heads_BNK[:, H:].unflatten(1, (2, G)), places)
            # the queries that share a key head look at the same keys, as if they were tokens of one head
            q_BGRK = heads_BNK[:, :H].unflatten(1, (G, H // G))
            mixed_BGRK = F.scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask)
            x_BD += linear(mixed_BGRK.flatten(1), weights.o.weight)
            gate, up = linear(self._norm(x_BD, weights.mlp_norm), weights.gate_up.weight).chunk(2, 1)
            x_BD += linear(F.silu(gate).mul_(up), weights.down.weight)
        cache.advance(1)
        return linear(self._norm(x_BD, self.last_norm.weight), self.head_VD)

    def _norm(self, x_BD: Tensor, scale_D: Tensor) -> Tensor:
        """Divide by the root mean square, then scale."""
        normal_BD = (x_BD * scale_D).mul_(_inverse(x_BD, self.eps))
        return normal_BD if self.dtype == torch.float32 else normal_BD.to(self.dtype)

    def _rotations(self, cache: Cache) -> zip[tuple[Tensor, Tensor]]:
        """Yield for every layer what channel i of a query or key counts by, and channel i + K/2, as BNK each."""
        cos, sin = (t[:, 0] for t in rope_tables(cache.positions(1), self.head_dim, self.theta, torch.float32))
        cos_B1K, sin_B1K = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        swapped_LNK = self.scale_LNK.roll(self.head_dim // 2, -1)
        own_LBNK = (self.scale_LNK[:, None] * cos_B1K).to(self.dtype)
        other_LBNK = (swapped_LNK[:, None] * sin_B1K).to(self.dtype)
        return zip(own_LBNK.unbind(), other_LBNK.unbind(), strict=True)


def _compiled(model: Qwen3, joined: Sequence[Joined], head_VD: Tensor) -> FewRows | None:
    """Return the compiled reader of few rows, where it is wanted and there is numba."""
    if not model.compiled or head_VD.device.type != "cpu":
        return None
    try:
        from danlu.model.few_rows import FewRows

        return FewRows(model, joined, head_VD)
    except (ImportError, RuntimeError, OSError):  # numba is not installed, or cannot keep what it compiled
        return None


def _normalise_and_rotate(qk_BNK: Tensor, rotation: tuple[Tensor, Tensor], eps: Tensor) -> None:
    """Norm, learned scale, and rotary position of queries and keys, in place."""
    own_BNK, other_BNK = rotation
    normal_BNK = qk_BNK * _inverse(qk_BNK, eps)
    halves_swapped_BNK = normal_BNK.unflatten(2, (2, -1)).flip(2).flatten(2)
    torch.addcmul(normal_BNK * own_BNK, halves_swapped_BNK, other_BNK, out=qk_BNK)


def _inverse(x: Tensor, eps: Tensor) -> Tensor:
    """Return 1 over the root mean square of the last dimension, which is kept."""
    length = vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
