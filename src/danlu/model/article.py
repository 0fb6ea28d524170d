"""The article family: its mathematics and state-dict names, computed once instead of head by head.

Fixed sinusoidal positions; every head has its own K×K query, key and value matrix on its own slice of the width;
post-LayerNorm; ReLU; untied output with bias. The heads' matrices are stacked, so that all heads take one batched
product, and attention is one fused call.

Shapes: B rows, T tokens, D width, H heads, K channels of a head (H·K = D), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.config import ArticleConfig
from danlu.errors import CheckpointError
from danlu.model.cache import Cache
from danlu.model.config_json import checked, hf_size, hf_value
from danlu.model.layers import Model, attend, document_mask, positions_in_segments
from danlu.model.loss import chunked_nll
from danlu.types import ModelOut

_HEAD_MATRICES = ("Wq", "Wk", "Wv")


class MultiHeadAttention(nn.Module):
    """Per-head projections, stacked; `Wq`, `Wk`, `Wv` are (H, K, K) with rows as outputs, as in nn.Linear."""

    def __init__(self, config: ArticleConfig):
        super().__init__()
        H, D = config.num_attention_heads, config.hidden_size
        self.Wq, self.Wk, self.Wv = (nn.Parameter(torch.empty(H, D // H, D // H)) for _ in _HEAD_MATRICES)
        self.projection_layer = nn.Linear(D, D)
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        """Mix tokens."""
        B, T, D = x_BTD.shape
        H, K = self.Wq.shape[:2]
        dtype, dropout = x_BTD.dtype, self.dropout if self.training else 0.0
        x_HNK = x_BTD.view(B * T, H, K).transpose(0, 1)
        weight_HKM = torch.cat([self.Wq, self.Wk, self.Wv], 1).mT.to(dtype)
        qkv = torch.bmm(x_HNK, weight_HKM).view(H, B, T, 3, K).permute(3, 1, 0, 2, 4)
        q_BHTK, k_BHSK, v_BHSK = qkv.unbind()
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(layer, k_BHSK, v_BHSK)
        y_BHTK = attend(q_BHTK, k_BHSK, v_BHSK, mask, dropout)
        out = _linear(y_BHTK.transpose(1, 2).reshape(B, T, D), self.projection_layer)
        return F.dropout(out, dropout)


class FeedForward(nn.Module):
    """Two layers with ReLU between."""

    def __init__(self, config: ArticleConfig):
        super().__init__()
        D = config.hidden_size
        self.ffn = nn.Sequential(nn.Linear(D, 4 * D), nn.ReLU(), nn.Linear(4 * D, D))
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform every token by itself."""
        hidden = F.relu(_linear(x_BTD, self.ffn[0]))
        return F.dropout(_linear(hidden, self.ffn[2]), self.dropout if self.training else 0.0)


class Block(nn.Module):
    """Attention and feed-forward, each normalised after it is added."""

    def __init__(self, config: ArticleConfig):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (
            nn.LayerNorm(config.hidden_size),
            nn.LayerNorm(config.hidden_size),
        )
        self.multi_head_attention = MultiHeadAttention(config)
        self.ff_network = FeedForward(config)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        """Add and normalise, twice."""
        x_BTD = _layer_norm(x_BTD + self.multi_head_attention(x_BTD, mask, cache, layer), self.layer_norm1)
        return _layer_norm(x_BTD + self.ff_network(x_BTD), self.layer_norm2)


class Article(Model):
    """The article's model; `to_article_state` and `from_article_state` translate to and from its own names."""

    model_type = "danlu_article"
    architecture = "DanluArticleForCausalLM"
    config: ArticleConfig

    def __init__(self, config: ArticleConfig, vocab_size: int, context: int):
        super().__init__(config, vocab_size, context)
        self.token_embedding = nn.Embedding(vocab_size, config.hidden_size)
        blocks = [Block(config) for _ in range(config.num_hidden_layers)]
        self.transformer_block = nn.ModuleList([*blocks, nn.LayerNorm(config.hidden_size)])
        self.language_model_out_linear_layer = nn.Linear(config.hidden_size, vocab_size)
        self._position_TD: Tensor | None = None

    def forward(
        self,
        ids_BT: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
    ) -> ModelOut:
        """See `Model.forward`. Positions restart in each segment. Raises ValueError past the context."""
        T = ids_BT.shape[1]
        if T + (max(cache.lengths) if cache else 0) > self.context:
            raise ValueError(f"{T} tokens do not fit into the article family's context of {self.context}")
        if positions is None:
            positions = cache.positions(T) if cache else torch.arange(T, device=ids_BT.device)[None]
            positions = positions_in_segments(segments) if segments is not None else positions
        mask = document_mask(segments) if segments is not None else cache.mask(T) if cache else None
        x_BTD = F.embedding(ids_BT, self.token_embedding.weight) + self._positions()[positions]
        x_BTD = x_BTD.to(self.compute_dtype)
        *blocks, norm = self.transformer_block
        for layer, block in enumerate(blocks):
            x_BTD = block(x_BTD, mask, cache, layer)
        x_BTD = _layer_norm(x_BTD, norm)
        if cache is not None:
            cache.advance(T)
        head = self.language_model_out_linear_layer
        if labels is not None:
            weight, bias = head.weight.to(x_BTD.dtype), head.bias.to(x_BTD.dtype)
            return ModelOut(nll_BT=chunked_nll(x_BTD, weight, bias, labels))
        return ModelOut(logits_BTV=_linear(x_BTD, head))

    def _positions(self) -> Tensor:
        """Return position_TD, made once; no buffer, since transformers creates models without computing those."""
        device = self.token_embedding.weight.device
        if self._position_TD is None or self._position_TD.device != device:
            self._position_TD = sinusoids(self.context, self.config.hidden_size).to(device)
        return self._position_TD

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Do nothing: this family joins too little to keep."""
        yield

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw as the article's second recipe does (xavier), or its first (PyTorch's defaults)."""
        xavier = self.config.initialization == "xavier"
        for name, p in self.named_parameters():
            if "layer_norm" in name or name.startswith(f"transformer_block.{self.config.num_hidden_layers}."):
                nn.init.constant_(p, float(name.endswith("weight")))
            elif name == "token_embedding.weight":
                nn.init.normal_(p, std=0.02 if xavier else 1.0, generator=generator)
            elif p.ndim == 1:
                fan_in = self.get_parameter(name.replace("bias", "weight")).shape[1]
                bound = 0.0 if xavier else 1 / math.sqrt(fan_in)
                nn.init.uniform_(p, -bound, bound, generator=generator)
            else:
                fan_out, fan_in = p.shape[-2:]
                bound = math.sqrt(6 / (fan_in + fan_out)) if xavier else 1 / math.sqrt(fan_in)
                nn.init.uniform_(p, -bound, bound, generator=generator)

    def new_cache(self, rows: int, length: int) -> Cache:
        """See `Model.new_cache`."""
        H, D = self.config.num_attention_heads, self.config.hidden_size
        device = self.token_embedding.weight.device
        return Cache(self.config.num_hidden_layers, rows, H, length, D // H, self.compute_dtype, device)

    def matrix_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """See `Model.matrix_parameters`; the stacked heads (H, K, K) count as matrices."""
        return [(n, p) for n, p in self.named_parameters() if n.startswith("transformer_block") and p.ndim > 1]

    @property
    def attention_width(self) -> int:
        """See `Model.attention_width`."""
        return self.config.hidden_size

    @property
    def embedding_weight(self) -> Tensor:
        """See `Model.embedding_weight`."""
        return self.token_embedding.weight

    @property
    def last_norm_weight(self) -> Tensor:
        """See `Model.last_norm_weight`."""
        return self.get_parameter(f"transformer_block.{self.config.num_hidden_layers}.weight")

    @property
    def output_weight(self) -> Tensor:
        """See `Model.output_weight`."""
        return self.language_model_out_linear_layer.weight

    def hf_config(self) -> dict[str, Any]:
        """Return the contents of `config.json`; `import danlu.hf` teaches transformers this family."""
        return {
            "architectures": [self.architecture],
            **self.config.model_dump(),
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": False,
            "dtype": "float32",
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, config_json: dict[str, Any], where: str) -> Article:
        """Make the model of a `config.json`. Raises CheckpointError for a value that cannot be."""
        values = {k: hf_value(config_json, k, where) for k in ArticleConfig.model_fields if k in config_json}
        context, vocab_size = (hf_size(config_json, key, where) for key in ("max_position_embeddings", "vocab_size"))
        return cls(checked(ArticleConfig, values, where), vocab_size, context)


def sinusoids(context: int, width: int) -> Tensor:
    """Return position_TD: sines in even channels, cosines in odd ones.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    positions_T1 = torch.arange(context, dtype=torch.float32)[:, None]
    rates_F = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width))
    table_TD = torch.zeros(context, width)
    table_TD[:, 0::2] = torch.sin(positions_T1 * rates_F)
    table_TD[:, 1::2] = torch.cos(positions_T1 * rates_F)
    return table_TD


def to_article_state(model: Article) -> dict[str, Tensor]:
    """Return the state dict that the article's own classes give: names, order, mask buffers."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        prefix, _, last = name.rpartition(".")
        if last == _HEAD_MATRICES[0]:
            matrices = {m: model.get_parameter(f"{prefix}.{m}").detach() for m in _HEAD_MATRICES}
            for head in range(model.config.num_attention_heads):
                state[f"{prefix}.heads.{head}.mask"] = torch.ones(model.context, model.context).tril()
                state |= {f"{prefix}.heads.{head}.{m}.weight": w[head].clone() for m, w in matrices.items()}
        elif last not in _HEAD_MATRICES:
            state[name] = tensor
    return state


def from_article_state(state: Mapping[str, Tensor], where: str, heads: int | None = None) -> Article:
    """Make the model of an article state dict; every size is read off names and shapes.

    Raises CheckpointError where a name is missing, foreign, or of another shape than the rest implies.
    """
    needed = "token_embedding.weight"
    if needed not in state:
        raise CheckpointError(f"{where}: holds no {needed!r}, so it is no state dict of the article's model")
    first = "transformer_block.0.multi_head_attention.heads."
    found = len({name.removeprefix(first).split(".")[0] for name in state if name.startswith(first)})
    if heads is not None and heads != found:
        raise CheckpointError(f"{where}: --heads {heads}, but its names hold {found} heads a block")
    layers = len({name.split(".")[1] for name in state if ".multi_head_attention." in name})
    mask = next((name for name in state if name.endswith(".mask")), None)
    if not found or mask is None:
        raise CheckpointError(f"{where}: names no heads or masks, so it is no state dict of the article's model")
    vocab_size, width = _matrix_shape(state, needed, where)
    context, _ = _matrix_shape(state, mask, where)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": found}
    config = checked(ArticleConfig, sizes, where, "So it is no state dict of the article's model")
    model = Article(config, vocab_size, context)
    _require_same_names_and_shapes(state, to_article_state(model), where)
    model.load_state_dict({name: _from_state(state, name, found) for name in model.state_dict()})
    return model


def _matrix_shape(state: Mapping[str, Tensor], name: str, where: str) -> tuple[int, int]:
    shape = tuple(state[name].shape)
    if len(shape) != 2 or not all(shape):
        raise CheckpointError(f"{where}: {name!r} has shape {shape}, and should be a matrix")
    return shape


def _require_same_names_and_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            raise CheckpointError(f"{where}: {name!r} is {'missing' if name not in state else 'foreign'}")
        if state[name].shape != expected[name].shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{where}: {name!r} has shape {shapes}")
        if not state[name].is_floating_point() and not name.endswith(".mask"):
            raise CheckpointError(f"{where}: {name!r} holds {state[name].dtype}: quantised weights are not read")


def _from_state(state: Mapping[str, Tensor], name: str, heads: int) -> Tensor:
    prefix, _, last = name.rpartition(".")
    if last in _HEAD_MATRICES:
        return torch.stack([state[f"{prefix}.heads.{head}.{last}.weight"] for head in range(heads)])
    return state[name]


def _linear(x: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)
