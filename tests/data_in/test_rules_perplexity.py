"""Trigrams of characters: a probability, the same as a plain count gives, and what surprises them is dropped."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from danlu.data.rules.perplexity import Perplexity, Trigrams
from danlu.errors import DataError
from danlu.types import Document, Drop


def test_bits_equal_a_plain_computation():
    texts = ["甲乙甲乙丙", "乙甲乙", "丙丙甲"]
    padded = [f"\0\0{text}" for text in texts]
    orders = {n: Counter(p[i - n + 1 : i + 1] for p in padded for i in range(2, len(p))) for n in (1, 2, 3)}

    def probability(history: str, character: str) -> float:
        n = len(history) + 1
        if n == 1:
            seen = orders[1][character] / sum(orders[1].values())
            return 2**-32 + (1 - 2**-16) * seen
        lower = probability(history[1:], character)
        follow = {key: count for key, count in orders[n].items() if key[:-1] == history}
        if not follow:
            return lower
        once, twice = (sum(count == c for count in orders[n].values()) for c in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(follow.values())
        return max(follow.get(history + character, 0) - discount, 0) / total + discount * len(follow) / total * lower

    trigrams = Trigrams.of(texts)
    for text in [*texts, "乙丙甲甲", "丁甲乙", "甲"]:
        expected = [-math.log2(probability(f"\0\0{text}"[i : i + 2], text[i])) for i in range(len(text))]
        assert trigrams.bits(text) == pytest.approx(sum(expected) / len(text), abs=1e-5)


def test_what_follows_a_history_adds_up_to_one():
    trigrams = Trigrams.of(["春眠不觉晓处处闻啼鸟", "夜来风雨声花落知多少", "春风又绿江南岸"])
    for history in ("", "春", "春眠", "风雨", "绿春"):
        codes = [np.array([ord(c) for c in history] + [code], dtype=np.int64) for code in range(0x4E00, 0xA000)]
        total = sum(2 ** -float(trigrams.bits_of_each(c)[-1]) for c in codes)
        assert 0.9 < total < 1.0001


def test_digits_letters_and_spaces_count_as_one_each():
    trigrams = Trigrams.of(["在1998年 abc", "在2024年\tXYZ"])
    assert trigrams.bits("在1998年 abc") == trigrams.bits("在3071年\nqrs")


def test_shuffled_text_is_dropped_and_other_good_text_kept(texts):
    rule = Perplexity.learn(texts, percentile=99, from_characters=20)
    rng = random.Random(0)
    lost = caught = 0
    for text in texts:
        shuffled = "".join(rng.sample(text, len(text)))
        lost += isinstance(rule(Document(text, "", "")), Drop)
        caught += rule(Document(shuffled, "", "")) == Drop("perplexity") or len(text) < 20
    assert lost <= 0.05 * len(texts)
    assert caught >= 0.98 * len(texts)


def test_short_texts_are_not_judged(texts):
    rule = Perplexity.learn(texts, from_characters=20)
    assert rule(Document("齉龘", "", "")) == Document("齉龘", "", "")


def test_saved_and_loaded_it_says_the_same(tmp_path, texts):
    trigrams = Trigrams.of(texts)
    trigrams.save(tmp_path / "good.npz")
    again = Trigrams.load(tmp_path / "good.npz")
    assert [again.bits(text) for text in texts[:20]] == [trigrams.bits(text) for text in texts[:20]]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "other.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"other\.npz: holds no trigrams"):
        Trigrams.load(tmp_path / "other.npz")


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(DataError, match="there is none"):
        Perplexity.learn([])
    with pytest.raises(DataError, match="10 good texts or more"):
        Perplexity.learn(["短"] * 20)
