"""Model families: one file a family, found by `model_type`.

Every family has `.config`, `.vocab_size`, `.context`, and the methods `hf_config`, `init_weights`, `new_cache`,
`matrix_parameters`, `flops_per_token`; its forward is `model(ids_BT, positions, segments, cache, labels) -> ModelOut`.
Weights are float32 masters; `model.compute_dtype` says what the forward computes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from danlu.config import ArticleConfig, ModelConfig, Qwen3Config
from danlu.errors import CheckpointError, ConfigError, DanluError
from danlu.model.article import Article
from danlu.model.layers import Model
from danlu.model.qwen3 import Qwen3

FAMILIES: dict[str, type[Model]] = {"qwen3": Qwen3, "danlu_article": Article}
_CONFIGS: dict[type[ModelConfig], type[Model]] = {Qwen3Config: Qwen3, ArticleConfig: Article}

__all__ = ["FAMILIES", "Model", "build_model", "model_from_hf"]


def build_model(config: ModelConfig, vocab_size: int, context: int, seed: int = 0) -> Model:
    """Make an initialised float32 model; the same seed gives the same weights whatever else drew random numbers.

    Raises ConfigError for sizes that this machine cannot hold.
    """
    with _memory_for("[model]", ConfigError):
        model = _CONFIGS[type(config)](config, vocab_size, context)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def model_from_hf(config_json: dict[str, Any], where: str = "config.json") -> Model:
    """Make a model, weights not set, from the contents of a `config.json` that danlu or transformers wrote.

    Raises CheckpointError for an unknown `model_type`, a feature that danlu's mathematics lacks, or a bad value.
    """
    model_type = config_json.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{where}: model_type {model_type!r} is none that danlu knows ({', '.join(FAMILIES)})")
    with _memory_for(where, CheckpointError):
        return FAMILIES[model_type].from_hf(config_json, where)


@contextmanager
def _memory_for(where: str, error_class: type[DanluError]) -> Iterator[None]:
    """Turn PyTorch's errors for sizes beyond the memory, or beyond 64 bits, into one line."""
    try:
        yield
    except (RuntimeError, MemoryError, TypeError) as error:
        what = str(error).partition("\n")[0]
        raise error_class(f"{where}: a model of these sizes cannot be made on this machine ({what})") from None
