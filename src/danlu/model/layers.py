"""What the families share: the base class, norms, rotary positions, attention.

Shapes: B rows, T tokens, S keys, D width, H query heads, G key/value heads, K channels of a head, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.config import ModelConfig
from danlu.model import kernels
from danlu.model.cache import Cache
from danlu.model.lora import Adapter
from danlu.types import ModelOut

Attention = Literal["sdpa", "blocked", "fused"]
"""How blocks are computed in training: attention by PyTorch, or in blocks of queries; or all between two products by
compiled code (see `fused`), which is attention in blocks of queries where there is none for a family or an adapter."""


class Model(nn.Module, ABC):
    """Base of the families. `compute_dtype`, `attention` and `compiled` say how a forward computes, not what.

    `compiled`: the next tokens of few rows are read by compiled code where numba is installed (extra [fast]) and the
    family has some. It takes a second to load, and some more when it is compiled for the first time on a machine.
    """

    model_type: str
    architecture: str

    def __init__(self, config: ModelConfig, vocab_size: int, context: int):
        super().__init__()
        self.config, self.vocab_size, self.context = config, vocab_size, context
        self.compute_dtype = torch.float32
        self.attention: Attention = "sdpa"
        self.compiled = False
        self.adapter: Adapter | None = None

    @abstractmethod
    def forward(
        self,
        ids_BT: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
    ) -> ModelOut:
        """Compute logits_BTV, or with labels_BT (-100: not scored) the per-token nll_BT in nats.

        `positions_BT` default to 0 … T-1 (after what the cache holds); `segments_BT` keep attention within a
        document; with a cache, keys and values are appended to it.
        """

    @classmethod
    @abstractmethod
    def from_hf(cls, config_json: dict[str, Any], where: str) -> Model:
        """Make the model that a `config.json` describes."""

    @abstractmethod
    def hf_config(self) -> dict[str, Any]:
        """Return the contents of `config.json`, token ids aside."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw all weights."""

    @abstractmethod
    def new_cache(self, rows: int, length: int) -> Cache:
        """Make an empty cache for `rows` sequences of up to `length` tokens, in the compute type."""

    @abstractmethod
    def frozen(self) -> AbstractContextManager[None]:
        """Keep what a forward derives from the weights while they do not change: for generation."""

    @abstractmethod
    def matrix_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Name the matrices inside the blocks: what Muon updates."""

    def flops_per_token(self, context: int) -> float:
        """Count forward and backward FLOPs a token: 6 a weight used in a product, and causal attention's.

        Attention's scores and values take 12·D·T a layer over the full square, half of it under the causal mask; where
        documents do not see each other, less is computed than is counted.
        Source: Kaplan et al. 2020, arXiv:2001.08361, table 1 (with the mask counted).
        """
        layers, width = self.config.num_hidden_layers, self.attention_width
        return 6.0 * self.matmul_weights() + 6.0 * layers * width * context

    @property
    def fusible(self) -> bool:
        """Tell whether this model can be computed with `attention="fused"`."""
        return False

    @property
    @abstractmethod
    def attention_width(self) -> int:
        """Return heads times channels of a head."""

    def matmul_weights(self) -> int:
        """Count the weights that take part in a matrix product for every token; the embedding look-up is none."""
        return sum(p.numel() for _, p in self.matrix_parameters()) + self.output_weight.numel()

    @property
    @abstractmethod
    def embedding_weight(self) -> Tensor:
        """Return the embedding's weight_VD."""

    @property
    @abstractmethod
    def last_norm_weight(self) -> Tensor:
        """Return the scales_D of the norm before the output layer."""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """Return the output layer's weight_VD."""


def rope_tables(positions_BT: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos_BT1F and sin_BT1F of the rotary angles for F = K/2 pairs of channels; angles in float32.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.
    """
    even = torch.arange(0, head_dim, 2, device=positions_BT.device).float() / head_dim
    angles_BT1F = (positions_BT.float()[..., None] / theta**even)[:, :, None]
    return angles_BT1F.cos().to(dtype), angles_BT1F.sin().to(dtype)


def document_mask(segments_BT: Tensor) -> Tensor:
    """Return mask_B1TT: true where a token may look, at itself and before it in its own document."""
    same = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
    return same.tril()


def positions_in_segments(segments_BT: Tensor) -> Tensor:
    """Count each token's position from its document's first token in the row."""
    T = segments_BT.shape[1]
    index = torch.arange(T, device=segments_BT.device).expand_as(segments_BT)
    first = torch.ones_like(segments_BT, dtype=torch.bool)
    first[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return index - torch.where(first, index, 0).cummax(1).values


def attend(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    kernel: Attention = "sdpa",
) -> Tensor:
    """Scaled dot-product attention, causal where no mask is given; H/G query heads share a key head.

    Any other kernel than "sdpa" is `kernels.causal_attention` where it applies: training, in eager mode; a mask is
    causal then.
    """
    eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if kernel != "sdpa" and not dropout and eager and q_BHTK.shape[2] == k_BGSK.shape[2]:
        return kernels.causal_attention(q_BHTK, k_BGSK, v_BGSK, mask)
    if q_BHTK.shape[2] == 1:  # heads that share a key head look at the same keys, as if they were tokens of one head
        q_BGNK = q_BHTK.view(len(q_BHTK), k_BGSK.shape[1], -1, q_BHTK.shape[3])
        return F.scaled_dot_product_attention(q_BGNK, k_BGSK, v_BGSK, attn_mask=mask, dropout_p=dropout).view_as(q_BHTK)
    causal, groups = mask is None, q_BHTK.shape[1] != k_BGSK.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=groups
    )


def lay_side_by_side(linears: list[nn.Linear]) -> None:
    """Move the weights of some layers into one storage, row after row: `join_rows` need not copy them then."""
    storage = torch.cat([linear.weight.data for linear in linears])
    for linear, rows in zip(linears, storage.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = rows


def join_rows(weights: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return weights in the compute type, their rows one after another, so that they take one matrix product.

    Weights that lie side by side in this type already are not copied.
    """
    first = weights[0]
    if len(weights) == 1:
        return first.to(dtype)
    if first.dtype != dtype or torch.compiler.is_compiling() or not _side_by_side(weights):
        return torch.cat([w.to(dtype) for w in weights])
    return _Seen.apply(*weights)  # pyright: ignore[reportReturnType]


def _side_by_side(weights: list[Tensor]) -> bool:
    at, storage = weights[0].storage_offset(), weights[0].untyped_storage().data_ptr()
    for w in weights:
        if w.untyped_storage().data_ptr() != storage or w.storage_offset() != at or not w.is_contiguous():
            return False
        at += w.numel()
    return True


class _Seen(torch.autograd.Function):
    """Tensors that lie side by side, seen as one."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Tensor:
        ctx.rows = [len(w) for w in weights]
        return weights[0].as_strided((sum(ctx.rows), *weights[0].shape[1:]), weights[0].stride())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        return upstream[0].split(ctx.rows)
