"""Matrices cast once a step: the same gradients, bit for bit, as a cast in every forward."""

import contextlib
import copy

import pytest
import torch

from danlu.config import ArticleConfig, Qwen3Config
from danlu.model import build_model
from danlu.train.casts import cast_once
from danlu.train.objectives import NextToken
from danlu.train.step import accumulate
from danlu.types import Batch

FAMILIES = {
    "qwen3": Qwen3Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16
    ),
    "article": ArticleConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, dropout=0.0),
}


def model_and_batches(family: str, dtype: torch.dtype):
    model = build_model(FAMILIES[family], 50, 32)
    model.compute_dtype = dtype
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    ids = torch.randint(50, (6, 32), generator=generator)
    return model, [Batch(part, part.roll(-1, 1)) for part in ids.split(2)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_equal_those_of_a_cast_in_every_forward(family, dtype):
    model, batches = model_and_batches(family, dtype)
    twin = copy.deepcopy(model)
    accumulate(model, NextToken(), batches, 192)
    for batch in batches:
        (NextToken().loss(twin, batch)[0] / 192).backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.dtype == torch.float32
        assert torch.equal(ours.grad, theirs.grad), name


def test_copies_lie_side_by_side_and_masters_come_back():
    model, _ = model_and_batches("qwen3", torch.bfloat16)
    masters, attention = dict(model.named_parameters()), model.model.layers[0].self_attn
    with cast_once(model):
        q, k = attention.q_proj.weight, attention.k_proj.weight
        assert q.dtype == torch.bfloat16
        assert k.data_ptr() - q.data_ptr() == 2 * q.numel()
    assert all(parameter is masters[name] for name, parameter in model.named_parameters())


def test_masters_come_back_after_an_error():
    model, _ = model_and_batches("qwen3", torch.bfloat16)
    masters = dict(model.named_parameters())
    with contextlib.suppress(KeyError), cast_once(model):
        raise KeyError
    assert all(parameter is masters[name] for name, parameter in model.named_parameters())
