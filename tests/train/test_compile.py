"""torch.compile: the same mathematics, and chosen only where it pays."""

import copy

import pytest
import torch

from danlu.config import Qwen3Config
from danlu.model import build_model
from danlu.train.objectives import NextToken
from danlu.train.step import accumulate
from danlu.train.trial import compiling_pays
from danlu.types import Batch


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "blocked"])
def test_a_compiled_model_has_the_same_loss_and_gradients(attention):
    model = build_model(Qwen3Config(hidden_size=32, num_hidden_layers=2, head_dim=16, intermediate_size=48), 50, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.attention = attention
    twin = copy.deepcopy(model)
    ids = torch.randint(50, (4, 32), generator=torch.Generator().manual_seed(0))
    batches = [Batch(part, part.roll(-1, 1)) for part in ids.split(2)]
    expected = accumulate(model, NextToken(), batches, 128)
    got = accumulate(torch.compile(twin, dynamic=False), NextToken(), batches, 128)  # pyright: ignore
    torch.testing.assert_close(got, expected)
    for (name, ours), theirs in zip(twin.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_short_run_is_not_even_tried():
    def never() -> float:
        raise AssertionError

    assert not compiling_pays(0.5, 100, never)


def test_a_long_run_is_compiled_where_a_step_gets_faster():
    assert compiling_pays(0.5, 10_000, lambda: 0.3)
    assert not compiling_pays(0.5, 10_000, lambda: 0.6)


def test_without_a_working_compiler_the_run_goes_on_as_it_is():
    def broken() -> float:
        raise RuntimeError("no compiler found")

    assert not compiling_pays(0.5, 10_000, broken)
