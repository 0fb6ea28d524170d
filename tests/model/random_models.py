"""Tiny qwen3 models of several shapes, all weights random: nothing is zero or one as it is at first."""

import torch

from danlu.config import Qwen3Config
from danlu.model import build_model

SHAPES = {
    "plain": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16},
    "wide_heads": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 48},
    "untied": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": False,
    },
}


def random_qwen3(shape: str, vocab_size=131, context=300):
    config = Qwen3Config(hidden_size=64, num_hidden_layers=3, intermediate_size=96, rope_theta=5_000.0, **SHAPES[shape])
    model = build_model(config, vocab_size, context, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.1 if p.ndim > 1 else 0.3) + (p.ndim == 1))
    return model
