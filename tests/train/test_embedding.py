"""The embedding's start from bigrams, beside a plain count and a dense singular value decomposition."""

import itertools

import numpy as np
import pytest
import torch

from danlu.config import ArticleConfig, Qwen3Config
from danlu.data.shards import TokenStream
from danlu.model import build_model
from danlu.train import embedding
from danlu.train.embedding import bigram_embedding, start_from_bigrams


def stream_of(ids) -> TokenStream:
    return TokenStream((np.asarray(ids, dtype="<u2"),), 0, 1, 1, 1)


@pytest.fixture(scope="module")
def text():
    """A stream in which what follows depends on what stands before; the last three of 40 entries never occur."""
    rng = np.random.default_rng(0)
    following = rng.dirichlet(np.full(37, 0.2), size=37)
    ids = [0]
    for _ in range(5000):
        ids.append(int(rng.choice(37, p=following[ids[-1]])))
    return ids


def dense_pmi(ids, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for a, b in itertools.pairwise(ids):
        counts[a, b] += 1
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(counts * counts.sum() / np.outer(counts.sum(1), counts.sum(0)))
    return np.where(counts > 0, np.maximum(pmi, 0), 0)


def test_the_halves_are_the_best_factors_of_the_positive_pmi(text):
    pmi = dense_pmi(text, 40)
    left, values, right = np.linalg.svd(pmi)
    best = (left[:, :8] * values[:8]) @ right[:8]
    made = bigram_embedding(stream_of(text), 40, 16, std=1.0)
    product = (made[:, :8] @ made[:, 8:].T).numpy()
    scale = float((product * best).sum() / (product * product).sum())
    assert np.linalg.norm(scale * product - pmi) < 1.02 * np.linalg.norm(best - pmi) < 0.7 * np.linalg.norm(pmi)
    assert float(made.std()) == pytest.approx(1.0, rel=1e-3)
    assert not made[37:].abs().max() > 1e-6  # these never occur


def test_an_odd_or_a_too_wide_model_is_filled(text):
    assert bigram_embedding(stream_of(text), 40, 15, std=1.0).shape == (40, 15)
    wide = bigram_embedding(stream_of(text), 40, 200, std=1.0)
    assert wide.shape == (40, 200)
    assert wide.isfinite().all()


def test_a_long_stream_is_counted_at_evenly_spaced_pieces(text, monkeypatch):
    monkeypatch.setattr(embedding, "_MOST_TOKENS", 2560)
    monkeypatch.setattr(embedding, "_PIECES", 4)
    sampled, all_of_it = (bigram_embedding(stream_of(text[:n]), 40, 16, std=1.0) for n in (5000, 2560))
    assert not torch.allclose(sampled, all_of_it)
    keys, counts = embedding._bigrams(stream_of(text), 40)
    assert counts.sum() == 4 * (2560 // 4 - 1)
    assert set(keys.tolist()) <= {a * 40 + b for a, b in itertools.pairwise(text)}


@pytest.mark.parametrize("config", [Qwen3Config(hidden_size=16, num_hidden_layers=1), ArticleConfig(hidden_size=32)])
def test_only_the_embedding_and_a_tied_models_last_norm_change(config, text):
    model, fresh = (build_model(config, 40, 32) for _ in range(2))
    start_from_bigrams(model, stream_of(text))
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, fresh.get_parameter(n))]
    tied = isinstance(config, Qwen3Config)
    assert changed == (["model.embed_tokens.weight", "model.norm.weight"] if tied else ["token_embedding.weight"])
    assert torch.equal(model.last_norm_weight.abs(), fresh.last_norm_weight.abs())
    assert model.embedding_weight.std().item() == pytest.approx(5 * fresh.embedding_weight.std().item(), rel=1e-3)


def test_an_untrained_model_does_not_foretell_each_token_itself(text):
    """With all scales positive it would, and its first loss would be that of a certain error."""
    model = build_model(Qwen3Config(hidden_size=64, num_hidden_layers=1, head_dim=16), 40, 32)
    start_from_bigrams(model, stream_of(text))
    ids = torch.tensor(text[:3201]).unfold(0, 33, 32)

    def loss() -> float:
        with torch.no_grad():
            return model(ids[:, :-1], labels=ids[:, 1:].contiguous()).nll_BT.mean().item()

    balanced = loss()
    with torch.no_grad():
        model.last_norm_weight.abs_()
    assert balanced < loss() - 1
