"""Held-out quality against a brute-force reading of its definition."""

import math

import numpy as np
import pytest
import torch

from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import ConfigError
from danlu.evaluate import loss
from danlu.evaluate.loss import Score, ValidationSet, checked_window, score_documents, score_texts
from danlu.model import build_model

CONFIGS = {
    "qwen3": Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
    ),
    "article": ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
}


def make_model(family="qwen3", vocab_size=320, context=32):
    model = build_model(CONFIGS[family], vocab_size, context, seed=3)
    with torch.no_grad():  # the qwen3 family starts with zero output projections: give attention something to do
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def ragged(vocab_size=320):
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab_size, n) for n in (1, 7, 0, 16, 17, 70, 2, 33, 64, 1)]


def brute_force(model, documents, eos_id, window):
    """Each document alone, each window alone, full logits, float64 softmax."""
    nats = tokens = 0
    for document in documents:
        stream = [eos_id, *map(int, document)]
        for start in range(0, len(document), window):
            stop = min(start + window, len(document))
            with torch.no_grad():
                logits_TV = model(torch.tensor([stream[start:stop]])).logits_BTV[0].double()
            logp_TV = logits_TV.log_softmax(-1)
            for t, label in enumerate(stream[start + 1 : stop + 1]):
                nats, tokens = nats - logp_TV[t, label].item(), tokens + 1
    return nats, tokens


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(("window", "batch_tokens"), [(32, 8192), (16, 48), (5, 40), (1, 3), (32, 1)])
def test_ragged_batches_equal_one_document_at_a_time(family, window, batch_tokens):
    model, documents = make_model(family).eval(), ragged()
    nats, tokens = score_documents(model, documents, 0, window, batch_tokens)
    expected, count = brute_force(model, documents, 0, window)
    assert tokens == count == 211
    assert nats == pytest.approx(expected, rel=1e-5)


def test_sorting_a_part_at_a_time_changes_nothing(monkeypatch):
    model, documents = make_model(), ragged()
    whole, _ = score_documents(model, documents, 0, 16)
    monkeypatch.setattr(loss, "_TOKENS_SORTED_AT_ONCE", 30)
    parts, tokens = score_documents(model, iter(documents), 0, 16)
    assert tokens == 211
    assert parts == pytest.approx(whole, rel=1e-6)


def test_a_later_window_sees_one_token_of_what_came_before():
    model = make_model().eval()
    nats, _ = score_documents(model, [[5, 6, 7, 8]], 0, 2)
    first, _ = score_documents(model, [[5, 6]], 0, 2)
    second, _ = score_documents(model, [[7, 8]], 6, 2)  # as if 6 were the mark it begins with
    assert nats == pytest.approx(first + second, rel=1e-6)


def test_dropout_is_off_while_scoring_and_the_training_mode_comes_back():
    model = make_model("article").train()
    scores = [score_documents(model, ragged(), 0, 32) for _ in range(2)]
    assert model.training
    assert all(m.training for m in model.modules())
    assert scores[0] == scores[1] == score_documents(model.eval(), ragged(), 0, 32)
    assert not model.training


def test_progress_counts_every_token_once():
    seen = []
    _, tokens = score_documents(make_model(), ragged(), 0, 16, 64, seen.append)
    assert sum(seen) == tokens
    assert len(seen) > 1


def test_score_arithmetic():
    score = Score(nats=math.log(2) * 600, tokens=150, characters=100, bytes=300, window=32, documents=4)
    assert score.bits_per_char == pytest.approx(6)
    assert score.bits_per_byte == pytest.approx(2)
    assert score.loss_nats_per_token == pytest.approx(4 * math.log(2))
    assert score.as_dict()["scored_tokens"] == 150
    assert not {"tokens", "seconds", "step", "kind"} & score.as_dict().keys()  # a metrics row has its own


def test_an_empty_set_scores_zero_and_divides_by_nothing():
    assert score_documents(make_model(), [], 0, 8) == (0.0, 0)
    assert Score(0.0, 0, 0, 0, 8, 0).bits_per_char == 0


def test_texts_are_counted_in_characters_and_bytes(tokenizer, texts):
    model, seen = make_model(), []
    some = [*texts[:40], "", "ABC😀", "<|endoftext|>"]
    score = score_texts(model, tokenizer, iter(some), 32, seen.append)
    assert (score.documents, score.window) == (43, 32)
    assert score.characters == sum(map(len, some))
    assert score.bytes == sum(len(t.encode()) for t in some)
    expected, count = brute_force(model.eval(), tokenizer.encode_batch(some), tokenizer.eos_id, 32)
    assert score.tokens == count
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert sum(seen) == pytest.approx(score.characters, rel=0.01)


def test_a_whole_validation_set_scores_as_its_texts_do(shards, tokenizer):
    model, held_out = make_model(), ValidationSet(shards, tokenizer)
    texts = [tokenizer.decode(d.tolist()) for d in shards.split("validation").documents()]
    score = held_out.score(model, 32)
    assert score.nats == pytest.approx(score_texts(model, tokenizer, texts, 32).nats, rel=1e-6)
    assert score.characters == shards.split("validation").characters
    assert score.bytes == shards.split("validation").bytes
    assert score.documents == shards.split("validation").documents_count
    assert held_out.score(model, 32) == score


def test_a_capped_validation_set_holds_whole_documents_from_end_to_end(shards, tokenizer):
    every = [d.tolist() for d in shards.split("validation").documents()]
    cap = sum(map(len, every)) // 3
    held = [d.tolist() for d in ValidationSet(shards, tokenizer, cap).documents]
    places = [every.index(d) for d in held]
    assert all(d in every for d in held)
    assert 0 < sum(map(len, held)) <= cap
    assert places == sorted(places)
    assert places[-1] > len(every) / 2  # not just the first source
    assert len(ValidationSet(shards, tokenizer, 1).documents) == 1  # never empty


def test_a_window_beyond_the_context_names_both_numbers():
    assert checked_window(None, 32, 16) == 16
    assert checked_window(32, 32, 16) == 32
    for window in (0, -1, 33):
        with pytest.raises(ConfigError, match=rf"--window {window}.*32 tokens"):
            checked_window(window, 32, 16)
