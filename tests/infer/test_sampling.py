"""Sampling against brute force and transformers' own logits processors."""

import pytest
import torch

from danlu.errors import ConfigError
from danlu.infer.sampling import Sampling, draw, penalise, probabilities

LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 7},
        {"top_p": 0.6},
        {"min_p": 0.1},
        {"temperature": 1.7, "top_k": 20, "top_p": 0.8},
    ],
)
def test_the_distribution_equals_transformers(settings):
    transformers = pytest.importorskip("transformers")
    s = Sampling(**{**PLAIN, **settings})
    scores = LOGITS.clone()
    ids = torch.zeros(5, 1, dtype=torch.long)
    warpers = [transformers.TemperatureLogitsWarper(s.temperature)] if s.temperature != 1 else []
    warpers += [transformers.TopKLogitsWarper(s.top_k)] if s.top_k else []
    warpers += [transformers.TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    warpers += [transformers.MinPLogitsWarper(s.min_p)] if s.min_p else []
    for warper in warpers:
        scores = warper(ids, scores)
    torch.testing.assert_close(probabilities(LOGITS, s), scores.softmax(-1), rtol=1e-5, atol=1e-6)


def test_temperature_zero_takes_the_likeliest():
    p = probabilities(LOGITS, Sampling(temperature=0))
    assert torch.equal(p.argmax(-1), LOGITS.argmax(-1))
    assert torch.equal(p.sum(-1), torch.ones(5))


def test_the_penalty_equals_transformers():
    transformers = pytest.importorskip("transformers")
    ids = torch.tensor([[1, 5, 5, 9]] * 5)
    seen = torch.zeros(5, 40, dtype=torch.bool)
    seen[:, [1, 5, 9]] = True
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.3)(ids, LOGITS.clone())
    torch.testing.assert_close(penalise(LOGITS, seen, 1.3), expected)


def test_draws_follow_the_distribution_and_never_take_the_impossible():
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([draw(p, [generator]) for _ in range(4000)]), minlength=5) / 4000
    assert counts[1] == counts[4] == 0
    torch.testing.assert_close(counts, p[0], rtol=0, atol=0.03)


def test_a_row_draws_the_same_alone_and_among_others():
    p = probabilities(LOGITS, Sampling())
    alone = draw(p[2:3], [torch.Generator().manual_seed(7)])
    among = draw(p, [torch.Generator().manual_seed(s) for s in (1, 2, 7, 3, 4)])
    assert alone[0] == among[2]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 2}, {"repetition_penalty": 0}]
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)
