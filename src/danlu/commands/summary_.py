"""`danlu summary`: layers, parameters, memory and FLOPs of a preset, a TOML file or a checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from danlu.commands import finish, required
from danlu.config import TrainConfig
from danlu.configure import check, parse_flags, read_tables
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.model import Model

_KINDS = {
    "embedding": ("embed_tokens", "token_embedding"),
    "output": ("lm_head", "language_model_out"),
    "attention": ("attn", "multi_head_attention"),
    "feed-forward": ("mlp", "ff_network"),
    "norms": ("norm", "transformer_block"),
}


@dataclass(frozen=True)
class Options:
    """Show what a model consists of and costs."""

    model: Positional[str | None] = None
    """preset, TOML file, checkpoint folder or run folder"""
    vocab_size: int = 6400
    """entries, where the model is not a checkpoint (shards decide it in a run)"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, build, print."""
    options = parse_flags(Options, argv, "danlu summary")
    model, batch_tokens = _load(required(options.model, "MODEL", "name a preset, a TOML file or a checkpoint"), options)
    result = summary(model, batch_tokens)
    return finish(result, _text(model, result), options.json)


def _load(name: str, options: Options) -> tuple[Model, int]:
    from danlu.checkpoint import CONFIG, load_model
    from danlu.model import build_model

    folder = Path(name).parent if Path(name).name == CONFIG else Path(name)
    if folder.is_dir():
        model = load_model(folder)
        return model, model.context
    if options.vocab_size < 1:
        raise ConfigError(f"--vocab-size {options.vocab_size}: must be 1 or more")
    config = check(TrainConfig, read_tables(name), name)
    return build_model(config.model, options.vocab_size, config.context), config.batch_tokens


def summary(model: Model, batch_tokens: int) -> dict[str, Any]:
    """Count parameters, bytes and FLOPs. Training keeps weight, gradient and two float32 states a parameter at most."""
    layers = [
        {"name": name, "kind": _kind(name), "shape": list(p.shape), "parameters": p.numel()}
        for name, p in model.named_parameters()
    ]
    by_kind: Counter[str] = Counter()
    for layer in layers:
        by_kind[layer["kind"]] += layer["parameters"]
    parameters = sum(by_kind.values())
    cache = model.new_cache(1, 1)
    return {
        "model_type": model.model_type,
        "parameters": parameters,
        "by_kind": dict(by_kind),
        "vocab_size": model.vocab_size,
        "context": model.context,
        "flops_per_token": model.flops_per_token(model.context),
        "memory_bytes": {
            "weights_fp32": 4 * parameters,
            "training_state_fp32": 16 * parameters,
            "cache_per_token_fp32": 4 * sum(layer.numel() for layer in cache.layers_2BGSK),
        },
        "batch_tokens": batch_tokens,
        "layers": layers,
    }


def _kind(name: str) -> str:
    return next(kind for kind, marks in _KINDS.items() if any(mark in name for mark in marks))


def _text(model: Model, result: dict[str, Any]) -> str:
    memory = result["memory_bytes"]
    rows = [f"  {x['name']:<58} {x['shape']!s:<18} {x['parameters']:>12,}" for x in result["layers"]]
    kinds = [f"  {kind:<14} {count:>12,}" for kind, count in result["by_kind"].items()]
    return "\n".join(
        [
            f"{result['model_type']}, {result['parameters']:,} parameters, {result['vocab_size']:,} entries, "
            f"context {result['context']:,}",
            *rows,
            "parameters by kind",
            *kinds,
            f"FLOPs a token, forward and backward: {result['flops_per_token'] / 1e6:,.1f} M",
            f"to run: {memory['weights_fp32'] / 1e6:,.1f} MB of weights in fp32, "
            f"{memory['cache_per_token_fp32'] / 1e3:,.1f} kB of cache a token",
            f"to train: {memory['training_state_fp32'] / 1e6:,.1f} MB (weights, gradients, optimiser) and activations",
        ]
    )
