"""The qwen3 family: Qwen3's mathematics and parameter names, computed with fused projections.

Every projection is a real `nn.Linear` of its own; the forward joins their weights so that q, k, v take one matrix
product, and gate and up another. They lie side by side in memory, so that joining costs nothing in float32; in
bfloat16 it is the cast, once a forward, which `frozen()` keeps for generation.

Shapes: B rows, T tokens, D width, H query heads, G key/value heads, K channels of a head, V vocabulary.
Source: Qwen3 technical report, arXiv:2505.09388; QK-norm: Dehghani et al. 2023, arXiv:2302.05442.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.config import Qwen3Config
from danlu.errors import CheckpointError
from danlu.model import decode
from danlu.model.cache import Cache
from danlu.model.config_json import checked, hf_size, hf_table, hf_value
from danlu.model.kernels import linear, pack, rms_norm, rotate, swiglu
from danlu.model.layers import Attention as Kernel
from danlu.model.layers import Model, attend, document_mask, join_rows, lay_side_by_side, rope_tables
from danlu.model.lora import Projection, narrow, project
from danlu.model.loss import chunked_nll
from danlu.types import ModelOut


class Joined(NamedTuple):
    """A block's weights: matrices in the compute type, one tensor for one matrix product; scales in float32."""

    attention_norm: Tensor
    qkv: Projection
    qk_scale: Tensor
    o: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection

    def packed(self) -> Joined:
        """Return the same, the matrices laid out for few rows (see `kernels.pack`)."""
        matrices = {name: Projection(pack(p.weight)) for name, p in self._asdict().items() if isinstance(p, Projection)}
        return self._replace(**matrices)


class Frozen(NamedTuple):
    """What generation keeps while the weights do not change."""

    joined: list[Joined]
    head_VD: Tensor
    next_tokens: decode.NextTokens


Rope = tuple[Tensor, Tensor]
Past = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a block's new keys and values and returns all that a query may see."""
_HF_DEFAULTS = {"head_dim": 128, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
"""What transformers takes for keys that a file leaves out."""


class RmsNorm(nn.Module):
    """A learned scale after division by the root mean square."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with normalised, rotated queries and keys."""

    def __init__(self, config: Qwen3Config):
        super().__init__()
        D, K = config.hidden_size, config.head_dim
        self.heads, self.groups, self.eps = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rms_norm_eps,
        )
        self.q_proj = nn.Linear(D, self.heads * K, bias=False)
        self.k_proj = nn.Linear(D, self.groups * K, bias=False)
        self.v_proj = nn.Linear(D, self.groups * K, bias=False)
        self.o_proj = nn.Linear(self.heads * K, D, bias=False)
        lay_side_by_side([self.q_proj, self.k_proj, self.v_proj])
        self.q_norm, self.k_norm = RmsNorm(K, self.eps), RmsNorm(K, self.eps)

    def forward(
        self, x_BTD: Tensor, rope: Rope, mask: Tensor | None, joined: Joined, past: Past, kernel: Kernel
    ) -> Tensor:
        """Mix tokens; x_BTD is normalised already."""
        H, G = self.heads, self.groups
        qkv_BTNK = project(x_BTD, joined.qkv).unflatten(-1, (H + 2 * G, -1))
        qk_BTNK, v_BTGK = qkv_BTNK.split([H + G, G], 2)
        q_BTHK, k_BTGK = rotate(rms_norm(qk_BTNK, joined.qk_scale, self.eps), *rope).split([H, G], 2)
        k_BGSK, v_BGSK = past(k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2))
        y_BHTK = attend(q_BTHK.transpose(1, 2), k_BGSK, v_BGSK, mask, kernel=kernel)
        return project(y_BHTK.transpose(1, 2).flatten(2), joined.o)


class FeedForward(nn.Module):
    """SwiGLU. Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: Qwen3Config):
        super().__init__()
        D, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(D, inner, bias=False)
        self.up_proj = nn.Linear(D, inner, bias=False)
        self.down_proj = nn.Linear(inner, D, bias=False)
        lay_side_by_side([self.gate_proj, self.up_proj])

    def forward(self, x_BTD: Tensor, joined: Joined) -> Tensor:
        """Transform every token by itself."""
        return project(swiglu(project(x_BTD, joined.gate_up)), joined.down)


class Block(nn.Module):
    """Attention and feed-forward, each on normalised input and added to the stream."""

    def __init__(self, config: Qwen3Config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), FeedForward(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def join(self, joiner: Callable[[list[nn.Linear]], Projection]) -> Joined:
        """Return this block's weights, those that read the same input joined."""
        a, m = self.self_attn, self.mlp
        return Joined(
            self.input_layernorm.weight,
            joiner([a.q_proj, a.k_proj, a.v_proj]),
            join_rows([a.q_norm.weight.expand(a.heads, -1), a.k_norm.weight.expand(a.groups, -1)], torch.float32),
            joiner([a.o_proj]),
            self.post_attention_layernorm.weight,
            joiner([m.gate_proj, m.up_proj]),
            joiner([m.down_proj]),
        )

    def forward(
        self, x_BTD: Tensor, rope: Rope, mask: Tensor | None, joined: Joined, past: Past, kernel: Kernel
    ) -> Tensor:
        """Add attention, then the feed-forward."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rope, mask, joined, past, kernel)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD), joined)


class Decoder(nn.Module):
    """Embedding, blocks, final norm: the part that Hugging Face names `model`."""

    def __init__(self, config: Qwen3Config, vocab_size: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(Model):
    """The default family; its state dict has the names of `Qwen3ForCausalLM`."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    config: Qwen3Config

    def __init__(self, config: Qwen3Config, vocab_size: int, context: int):
        super().__init__(config, vocab_size, context)
        self.model = Decoder(config, vocab_size)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, vocab_size, bias=False)
        self._frozen: Frozen | None = None

    def forward(
        self,
        ids_BT: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
    ) -> ModelOut:
        """See `Model.forward`."""
        T, dtype = ids_BT.shape[1], self.compute_dtype
        if self._frozen and cache and labels is None and decode.applies(ids_BT, positions, segments, cache):
            return ModelOut(logits_BTV=self._frozen.next_tokens.read(ids_BT, cache)[:, None])
        if positions is None:
            positions = cache.positions(T) if cache else torch.arange(T, device=ids_BT.device)[None]
        joined, head_VD = self._frozen[:2] if self._frozen else self._join(dtype)
        x_BTD = F.embedding(ids_BT, self.model.embed_tokens.weight).to(dtype)
        x_BTD = self.model.norm(self._through_blocks(x_BTD, joined, positions, segments, cache))
        if cache is not None:
            cache.advance(T)
        if labels is not None:
            compiled = self.attention == "fused" and self.fusible
            return ModelOut(nll_BT=chunked_nll(x_BTD, self.output_weight.to(dtype), None, labels, compiled))
        return ModelOut(logits_BTV=linear(x_BTD, head_VD))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the joined weights, laid out for few rows, while the block runs: for generation without gradients."""
        with torch.no_grad():
            plain = self._join(self.compute_dtype, merged=True)
            packed = [weights.packed() for weights in plain[0]], pack(plain[1])
            self._frozen = Frozen(*packed, decode.NextTokens(self, plain, packed))
        try:
            yield
        finally:
            self._frozen = None

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02), output projections zero, norms one: the first loss is close to ln(V).

        A tied output scores the token just read with about D·std, so a wide embedding is drawn narrower.
        Zero output projections: Yang et al. 2022, arXiv:2203.03466, appendix D.2.
        """
        embedding_std = min(0.02, 5 / self.config.hidden_size)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            else:
                std = embedding_std if "embed_tokens" in name else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)

    def new_cache(self, rows: int, length: int) -> Cache:
        """See `Model.new_cache`."""
        c, device = self.config, self.model.norm.weight.device
        return Cache(c.num_hidden_layers, rows, c.num_key_value_heads, length, c.head_dim, self.compute_dtype, device)

    def matrix_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """See `Model.matrix_parameters`."""
        return [(name, p) for name, p in self.named_parameters() if "layers" in name and name.endswith("proj.weight")]

    @property
    def fusible(self) -> bool:
        """See `Model.fusible`."""
        return self.adapter is None

    @property
    def attention_width(self) -> int:
        """See `Model.attention_width`."""
        return self.config.num_attention_heads * self.config.head_dim

    @property
    def embedding_weight(self) -> Tensor:
        """See `Model.embedding_weight`."""
        return self.model.embed_tokens.weight

    @property
    def last_norm_weight(self) -> Tensor:
        """See `Model.last_norm_weight`."""
        return self.model.norm.weight

    @property
    def output_weight(self) -> Tensor:
        """See `Model.output_weight`."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def hf_config(self) -> dict[str, Any]:
        """Return what transformers 4.57 (`rope_theta`) and 5.x (`rope_parameters`) need alike."""
        table = self.config.model_dump()
        return {
            "architectures": [self.architecture],
            **table,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.config.rope_theta},
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": ["full_attention"] * self.config.num_hidden_layers,
            "initializer_range": 0.02,
            "use_cache": True,
            "dtype": "float32",
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, config_json: dict[str, Any], where: str) -> Qwen3:
        """Make the model of a `config.json`. Raises CheckpointError for bad values, and mathematics danlu lacks."""
        rope = hf_table(config_json, "rope_parameters", where) or hf_table(config_json, "rope_scaling", where)
        refused = {
            "hidden_act": config_json.get("hidden_act", "silu") != "silu",
            "attention_bias": bool(config_json.get("attention_bias")),
            "use_sliding_window": bool(config_json.get("use_sliding_window")),
            "rope scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        }
        if any(refused.values()):
            what = ", ".join(name for name, wrong in refused.items() if wrong)
            raise CheckpointError(f"{where}: uses {what}, which danlu does not compute. Open it with transformers")
        defaults = _HF_DEFAULTS | {"num_key_value_heads": config_json.get("num_attention_heads")}
        found = config_json | ({"rope_theta": rope["rope_theta"]} if rope.get("rope_theta") else {})
        values = {key: hf_value(found, key, where, defaults.get(key)) for key in Qwen3Config.model_fields}
        context, vocab_size = (hf_size(config_json, key, where) for key in ("max_position_embeddings", "vocab_size"))
        return cls(checked(Qwen3Config, values, where), vocab_size, context)

    def _through_blocks(
        self, x_BTD: Tensor, joined: list[Joined], positions: Tensor, segments: Tensor | None, cache: Cache | None
    ) -> Tensor:
        learns = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.attention == "fused" and learns and cache is None and self.fusible:
            from danlu.model import fused

            return fused.blocks(x_BTD, joined, self.config, positions, segments)
        rope = rope_tables(positions, self.config.head_dim, self.config.rope_theta, x_BTD.dtype)
        mask = document_mask(segments) if segments is not None else cache.mask(x_BTD.shape[1]) if cache else None
        for layer, (block, weights) in enumerate(zip(self._blocks(), joined, strict=True)):
            x_BTD = block(x_BTD, rope, mask, weights, _past(cache, layer), self.attention)
        return x_BTD

    def _blocks(self) -> list[Block]:
        return list(self.model.layers)  # pyright: ignore[reportReturnType]

    def _join(self, dtype: torch.dtype, merged: bool = False) -> tuple[list[Joined], Tensor]:
        def joiner(linears: list[nn.Linear]) -> Projection:
            weights = [linear.weight for linear in linears]
            if self.adapter is None:
                return Projection(join_rows(weights, dtype))
            if merged:
                down, up = narrow(linears, self.adapter.scale, torch.float32)
                return Projection((join_rows(weights, torch.float32) + up @ down).to(dtype))
            return Projection(join_rows(weights, dtype), *narrow(linears, self.adapter.scale, dtype))

        return [block.join(joiner) for block in self._blocks()], self.output_weight.to(dtype)


def _past(cache: Cache | None, layer: int) -> Past:
    return (lambda k, v: (k, v)) if cache is None else (lambda k, v: cache.append(layer, k, v))
