"""Hashes of n-grams: equal where the characters are, whatever stands around them."""

import numpy as np
import pytest

from danlu.data.grams import BLOCK, batches, character_hashes, distinct, gram_hashes, grams_of, mix, pieces, span_hashes

TEXTS = ["炉火纯青，炉火正旺", "", "短", "一二三四五", "😀abc\ud800xyz", "炉火纯青，炉"]


@pytest.mark.parametrize("gram", [1, 2, 3, 5, 8, 13])
def test_two_grams_have_one_hash_exactly_where_they_are_equal(gram):
    hashes, owners = grams_of(TEXTS, gram)
    written = [
        (number, padded[i : i + gram])
        for number, text in enumerate(TEXTS)
        if text
        for padded in [text.ljust(gram, "\0")]
        for i in range(len(padded) - gram + 1)
    ]
    assert owners.tolist() == [number for number, _ in written]
    names = dict(zip(hashes.tolist(), (gram for _, gram in written), strict=True))
    assert [names[h] for h in hashes.tolist()] == [gram for _, gram in written]
    assert len(names) == len({gram for _, gram in written})


def test_the_hash_equals_a_polynomial_in_plain_numbers():
    codes, base = [ord(c) for c in "海纳百川有容乃大壁立千仞"], 0xD1342543DE82EF95

    def plain_mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    for gram in range(1, len(codes) + 1):
        expected = [
            sum(plain_mix(code + 1) * base ** (gram - 1 - k) for k, code in enumerate(codes[i : i + gram])) % 2**64
            for i in range(len(codes) - gram + 1)
        ]
        assert gram_hashes(character_hashes().take(codes), gram).tolist() == expected


def test_sequences_of_different_sizes_have_the_hashes_that_they_have_alone():
    characters = character_hashes().take([ord(c) for c in "海纳百川有容乃大壁立千仞无欲则刚"])
    spans = [(0, 1), (15, 1), (3, 13), (12, 4), (0, 16), (3, 5)]
    starts, sizes = np.array(spans).T
    alone = [gram_hashes(characters[start : start + size], size)[0] for start, size in spans]
    assert span_hashes(characters, starts, sizes).tolist() == alone
    assert len(span_hashes(characters, starts[:0], sizes[:0])) == 0


def test_too_few_characters_have_no_gram():
    assert len(gram_hashes(character_hashes().take([1, 2, 3]), 4)) == 0
    assert [len(found) for found in grams_of([], 5)] == [0, 0]
    assert [len(found) for found in grams_of(["", ""], 5)] == [0, 0]


def test_mixing_keeps_different_numbers_different_and_flips_half_of_the_bits():
    numbers = np.arange(1 << 12, dtype=np.uint64)
    mixed = mix(numbers.copy())
    assert len(np.unique(mixed)) == len(numbers)
    flipped = [
        int(one ^ other).bit_count() for one, other in zip(mixed[::2].tolist(), mixed[1::2].tolist(), strict=True)
    ]
    assert abs(np.mean(flipped) - 32) < 0.5


@pytest.mark.parametrize("length", [1, 4, 5, BLOCK, BLOCK + 1, BLOCK + 4, BLOCK + 5, 2 * BLOCK, 2 * BLOCK + 7])
def test_pieces_have_all_grams_of_a_text_and_no_others(length):
    text = "".join(chr(0x4E00 + i * i % 20_000) for i in range(length))
    whole, _ = grams_of([text], 5)
    parts = pieces(text, 5)
    assert max(map(len, parts)) <= BLOCK + 4
    assert set(grams_of(parts, 5)[0].tolist()) == set(whole.tolist())


def test_distinct_names_each_gram_of_a_text_once():
    hashes, owners = grams_of(["哈哈哈哈哈哈哈", "哈哈哈哈哈", "甲乙丙丁戊己"], 5)
    found = list(zip(*(part.tolist() for part in distinct(hashes, owners)), strict=True))
    assert len(found) == len(set(found)) == 4
    assert set(found) == set(zip(hashes.tolist(), owners.tolist(), strict=True))


def test_batches_are_full_but_never_over_unless_one_is_alone():
    sizes = [5, 5, 1, 20, 3, 3, 3, 3, 1]
    runs = [sizes[run] for run in batches(sizes, 10)]
    assert runs == [[5, 5], [1], [20], [3, 3, 3], [3, 1]]
    assert list(batches([], 10)) == []
