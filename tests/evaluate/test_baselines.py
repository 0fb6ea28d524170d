"""The baselines against slow references."""

import lzma
import math
from collections import Counter

import numpy as np
import pytest

from danlu.evaluate.baselines import BEGIN, CODE_POINTS, Bigrams, Primer, measure, texts_of, xz_size


def slow_bits(training, validation):
    """Absolute discounting written out with dictionaries; "" stands before a text."""
    pairs = Counter((b, c) for t in training for b, c in zip(["", *t], t, strict=False))
    singles = Counter(c for t in training for c in t)

    def discount(counter):
        once, twice = (sum(n == k for n in counter.values()) for k in (1, 2))
        return once / (once + 2 * twice) if once and twice else 0.5

    total, d1, d2 = sum(singles.values()), discount(singles), discount(pairs)

    def unigram(c):
        return max(singles[c] - d1, 0) / total + d1 * len(singles) / total / CODE_POINTS

    def bigram(b, c):
        followers = {y: n for (x, y), n in pairs.items() if x == b}
        n = sum(followers.values())
        if not n:
            return unigram(c)
        return max(followers.get(c, 0) - d2, 0) / n + d2 * len(followers) / n * unigram(c)

    return -sum(math.log2(bigram(b, c)) for t in validation for b, c in zip(["", *t], t, strict=False))


def test_bigrams_equal_a_slow_reference(texts):
    training, validation = texts[:30], [*texts[30:40], "全新的字😀", "", "a"]
    assert Bigrams(training).bits(validation) == pytest.approx(slow_bits(training, validation), rel=1e-9)


@pytest.mark.parametrize("before", [BEGIN, ord("山"), ord("Q"), ord("。")])
def test_bigrams_sum_to_one_over_all_code_points(texts, before):
    every = np.arange(CODE_POINTS)
    p = Bigrams(texts[:50]).probability(np.full(CODE_POINTS, before), every)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-9)


def test_counting_in_parts_changes_nothing(texts, monkeypatch):
    whole = Bigrams(texts).bits(texts[:50])
    monkeypatch.setattr("danlu.evaluate.baselines._CHARACTERS_AT_ONCE", 100)
    assert Bigrams(texts).bits(texts[:50]) == pytest.approx(whole, rel=1e-12)


def test_without_training_text_every_character_costs_the_same():
    assert Bigrams([]).bits(["ab", "中"]) == pytest.approx(3 * math.log2(CODE_POINTS))


def test_a_text_with_nul_and_a_lone_surrogate_has_a_finite_cost():
    assert math.isfinite(Bigrams(["\0a", "\ud800"]).bits(["\0\0a", "\udfff", "\U0010ffff"]))


def test_xz_figure_is_what_lzma_says(texts):
    training, validation = texts[:300], texts[300:]
    before = "\n".join(training).encode()
    preset = 9 | lzma.PRESET_EXTREME
    alone = len(lzma.compress(before, preset=preset))
    both = len(lzma.compress(before + b"\n" + "\n".join(validation).encode(), preset=preset))
    found = measure(iter(training), iter(validation))
    characters = sum(map(len, validation))
    assert found["xz -9e, primed"]["bits"] == 8 * (both - alone) > 0
    assert found["xz -9e, primed"]["bits_per_char"] == 8 * (both - alone) / characters
    bigrams = found["character bigrams"]["bits_per_char"]
    assert bigrams == pytest.approx(slow_bits(training, validation) / characters, rel=1e-9)


def test_priming_helps(texts):
    primed = measure(texts[:300], texts[300:])["xz -9e, primed"]["bits"]
    assert primed < 8 * xz_size(["\n".join(texts[300:]).encode()])


@pytest.mark.parametrize("limit", [1, 10, 1000, 10**9])
def test_the_primer_is_the_end_of_the_joined_texts(texts, limit):
    primer = Primer(limit)
    assert list(primer.watch(texts)) == texts
    joined = "\n".join(texts).encode()
    assert primer.text() == joined[-limit:]
    assert primer.whole == (len(joined) <= limit)


def test_a_long_training_text_is_cut_and_that_is_said(texts, monkeypatch):
    monkeypatch.setattr("danlu.evaluate.baselines.Primer", lambda: Primer(100))
    found = measure(texts[:300], texts[300:])["xz -9e, primed"]
    last, held_out = "\n".join(texts[:300]).encode()[-100:], "\n".join(texts[300:]).encode()
    assert found["bits"] == 8 * (xz_size([last, b"\n", held_out]) - xz_size([last]))
    assert "the last" in found["about"]


def test_texts_of_shards_are_the_prepared_texts(shards, tokenizer, texts):
    both = [t for split in ("train", "validation") for t in texts_of(shards, tokenizer, split)]
    assert sorted(both) == sorted(texts)
