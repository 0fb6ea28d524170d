"""Sampling against brute force and transformers' own logits processors."""

import pytest
import torch

from danlu.errors import ConfigError
from danlu.infer.sampling import History, Sampling, draw, probabilities

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
    torch.testing.assert_close(probabilities(LOGITS, [s] * 5), scores.softmax(-1), rtol=1e-5, atol=1e-6)


def test_temperature_zero_takes_the_likeliest():
    p = probabilities(LOGITS, [Sampling(temperature=0)] * 5)
    assert torch.equal(p.argmax(-1), LOGITS.argmax(-1))
    assert torch.equal(p.sum(-1), torch.ones(5))


@pytest.mark.parametrize("candidates", [1, 8, 40])
def test_rows_with_settings_of_their_own_equal_rows_alone(candidates, monkeypatch):
    """However few tokens are ordered first, a row gets what it gets where all are."""
    settings = [
        Sampling(temperature=0),
        Sampling(temperature=1.0, top_p=1.0),
        Sampling(temperature=2.0, top_p=0.99, min_p=0.01),
        Sampling(top_k=3, top_p=0.9),
        Sampling(top_k=30, top_p=1.0),
    ]
    alone = torch.cat([probabilities(LOGITS[i : i + 1], [s]) for i, s in enumerate(settings)])
    monkeypatch.setattr("danlu.infer.sampling._CANDIDATES", candidates)
    torch.testing.assert_close(probabilities(LOGITS, settings), alone, rtol=1e-5, atol=1e-7)


def test_equal_logits_are_no_draw_at_temperature_zero():
    p = probabilities(torch.zeros(1, 40), [Sampling(temperature=0)])
    assert p[0, 0] == 1


def history(prompt, written, **settings):
    past = History(prompt, 40, Sampling(**settings))
    for token in written:
        past.add(token)
    return past


def test_the_penalty_equals_transformers():
    transformers = pytest.importorskip("transformers")
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 5, 5, 9]]), LOGITS[:1].clone())
    got = history([1, 5], [5, 9], repetition_penalty=1.3).change(LOGITS[0])
    torch.testing.assert_close(got[None], expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_comes_twice_as_in_transformers(n):
    transformers = pytest.importorskip("transformers")
    ids = [1, 5, 9, 2, 1, 5, 7, 1, 5]
    expected = transformers.NoRepeatNGramLogitsProcessor(n)(torch.tensor([ids]), LOGITS[:1].clone())
    for split in (0, 4, len(ids)):
        got = history(ids[:split], ids[split:], no_repeat_ngram=n).change(LOGITS[0])
        assert torch.equal(got[None], expected)
    assert expected.isinf().any()


def test_a_guard_that_forbids_every_token_forbids_none():
    past = History([0, 1, 2, 0, 1], 3, Sampling(no_repeat_ngram=1))
    assert past.change(torch.zeros(3)).isfinite().all()


def test_presence_and_frequency_count_what_was_written_alone():
    """OpenAI's formula: logit - count x frequency - (count > 0) x presence."""
    got = history([3, 3], [5, 5, 9], presence_penalty=0.5, frequency_penalty=0.25).change(LOGITS[0])
    expected = LOGITS[0].clone()
    expected[5] -= 1.0
    expected[9] -= 0.75
    torch.testing.assert_close(got, expected)


def test_draws_follow_the_distribution_and_never_take_the_impossible():
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([draw(p, [generator]) for _ in range(4000)]), minlength=5) / 4000
    assert counts[1] == counts[4] == 0
    torch.testing.assert_close(counts, p[0], rtol=0, atol=0.03)


def test_a_row_draws_the_same_alone_and_among_others():
    p = probabilities(LOGITS, [Sampling()] * 5)
    alone = draw(p[2:3], [torch.Generator().manual_seed(7)])
    among = draw(p, [torch.Generator().manual_seed(s) for s in (1, 2, 7, 3, 4)])
    assert alone[0] == among[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"no_repeat_ngram": -1},
        {"presence_penalty": float("nan")},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)
