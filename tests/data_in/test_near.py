"""Near-duplicates: found where the n-grams are alike, lost nowhere else, in time proportional to the documents."""

import random
import re

import alike
import numpy as np
import pytest
from pydantic import ValidationError

from danlu.data.grams import BLOCK, mix
from danlu.data.near import EMPTY, Near, near_duplicates, signatures

NEAR = Near()


@pytest.fixture(scope="module")
def pool():
    return alike.random_sentences(3000)


def letters(text: str) -> str:
    """Leave of a text what is a letter, a digit or Han, by Python's own word for it."""
    return "".join(c for c in text if c.isalnum())


def share(one: np.ndarray, other: np.ndarray) -> float:
    return float((one == other).mean())


def test_the_share_of_a_signature_in_common_estimates_the_similarity(pool):
    rng = random.Random(1)
    originals = [alike.text(rng, pool, rng.choice([10, 30, 100, 400, 2000])) for _ in range(600)]
    copies = [alike.edited(rng, text, pool, rng.choice([0.02, 0.05, 0.1, 0.3])) for text in originals]
    truth = np.array([alike.jaccard(letters(a), letters(b)) for a, b in zip(originals, copies, strict=True)])
    signed = zip(signatures(originals, NEAR), signatures(copies, NEAR), strict=True)
    errors = np.array([share(*both) for both in signed]) - truth
    deviation = np.sqrt(np.maximum(truth * (1 - truth), 0.01) / NEAR.hashes)
    assert abs(errors.mean()) < 4 * deviation.mean() / len(errors) ** 0.5
    assert (np.abs(errors) < 5 * deviation).all()
    assert (errors / deviation).std() < 1.1  # no wider than independent hash functions


def plain_signature(text: str, near: Near) -> list[int]:
    """Sketch by the definition, in plain numbers: in each place the least number of the first round that reaches it."""
    base, golden, half = 0xD1342543DE82EF95, 0x9E3779B97F4A7C15, 2**32
    characters = [int(mix(np.array([ord(c) + 1], np.uint64))[0]) for c in letters(text).ljust(near.gram, "\0")]
    windows = {tuple(characters[i : i + near.gram]) for i in range(len(characters) - near.gram + 1)}
    hashes = [sum(c * base ** (near.gram - 1 - k) for k, c in enumerate(window)) % 2**64 for window in windows]
    found: list[int | None] = [None] * near.hashes
    for number in range(2 * near.hashes):
        reached: dict[int, int] = {}
        for hashed in hashes:
            mixed = int(mix(np.array([(hashed + number * golden + near.seed * base) % 2**64], np.uint64))[0])
            place = (mixed // half) * near.hashes // half if number < near.hashes else number - near.hashes
            reached[place] = min(reached.get(place, half), mixed % half)
        found = [reached.get(place) if value is None else value for place, value in enumerate(found)]
    return [min(value, half - 2) for value in found if value is not None]


@pytest.mark.parametrize("text", ["一", "一二三四五六", "哈" * 50, "炉火纯青，炉火正旺。" * 2 + "春风化雨"])
def test_a_signature_equals_its_definition_in_plain_numbers(text):
    near = Near(bands=5, rows=3, similarity=0.9, seed=3)
    assert signatures([text], near)[0].tolist() == plain_signature(text, near)


def test_a_long_text_of_few_grams_has_the_signature_of_a_short_one():
    turn = "天地玄黄宇宙洪荒日月盈昃辰宿列张"
    long, short = signatures([turn * (3 * BLOCK // len(turn)), turn * 2], NEAR)
    assert (long == short).all()


def test_a_long_text_is_like_itself_with_a_few_changes(pool):
    rng = random.Random(2)
    long = alike.text(rng, pool, 3 * BLOCK)
    other = alike.edited(rng, long, pool, 0.05)
    one, two = signatures([long, other], NEAR)
    assert abs(share(one, two) - alike.jaccard(long, other)) < 0.15


def test_a_signature_depends_on_the_text_and_the_settings_alone(pool):
    rng = random.Random(3)
    texts = [alike.text(rng, pool, rng.choice([1, 50, 400])) for _ in range(200)] + ["", "短", "x" * (2 * BLOCK)]
    together = signatures(texts, NEAR)
    assert (signatures(texts[::-1], NEAR)[::-1] == together).all()
    assert all((signatures([texts[n]], NEAR)[0] == together[n]).all() for n in (0, 7, 100, 200, 201, 202))
    assert not (signatures(texts, Near(seed=1)) == together)[:200].all(axis=1).any()


def test_the_signature_is_the_same_on_every_machine_and_day():
    assert signatures(["炉火纯青"], NEAR)[0, :3].tolist() == [3373384021, 4070362854, 410105833]


def test_white_space_does_not_count():
    spaced = signatures(
        ["春眠不觉晓，处处闻啼鸟。", "春眠 不觉晓，\n处处闻啼鸟。", "\u3000春眠不觉晓，处处\t闻啼鸟。 "], NEAR
    )
    assert (spaced == spaced[0]).all()


def edits(rng: random.Random, text: str) -> str:
    """Write a text with other punctuation, spacing, width and case, its letters and digits left alone."""
    found = []
    for character in text:
        if not character.isalnum():
            found.append(rng.choice(["", "，", "！", ",", "……", " ", "\n\n", "——", "》"]))
            continue
        wide = chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character
        found.append(rng.choice([character, wide, character.upper()]) + rng.choice(["", "", "", " ", "、"]))
    return "".join(found)


def test_punctuation_spacing_width_and_case_do_not_count_however_short_the_text(pool):
    rng = random.Random(8)
    texts = [alike.text(rng, pool, characters) + f"abc{n}de" for n, characters in enumerate([1, 5, 20, 60, 400] * 20)]
    texts.append(alike.text(rng, pool, 2 * BLOCK))
    signed = signatures([*texts, *(edits(rng, text) for text in texts)], NEAR)
    assert (signed[: len(texts)] == signed[len(texts) :]).all()
    first = near_duplicates(signed, NEAR).tolist()
    assert first[: len(texts)] == list(range(len(texts)))
    assert first[len(texts) :] == list(range(len(texts)))


def test_sums_with_another_sign_are_other_texts():
    sums = [f"计算 {a} {sign} {b} 等于几？" for a in (12, 340) for b in (7, 85) for sign in "+-×÷*/<>="]
    assert near_duplicates(signatures(sums, NEAR), NEAR).tolist() == list(range(len(sums)))
    assert near_duplicates(signatures(["计算12+34等于几", "计算１２ ＋ ３４ 等于几？"], NEAR), NEAR).tolist() == [0, 0]


def test_empty_and_very_short_texts_are_like_themselves_alone():
    texts = ["", " ", "\n", "好", "好", "好。", "坏", "……！", "——", "一二三四", "一二三四五", "一二三五"]
    signed = signatures(texts, NEAR)
    assert (signed[:3] == EMPTY).all()
    assert not (signed[3:] == EMPTY).any()
    assert near_duplicates(signed, NEAR).tolist() == [0, 1, 2, 3, 3, 5, 6, 7, 8, 9, 10, 11]


def by_all_pairs(signed: np.ndarray, near: Near) -> list[int]:
    """Compare each document with every kept one before it that has a band in common."""
    kept: list[int] = []
    first = list(range(len(signed)))
    bands = signed.reshape(len(signed), near.bands, near.rows)
    for document in range(len(signed)):
        for other in kept:
            together = (bands[document] == bands[other]).all(axis=1).any()
            if together and (signed[document] == signed[other]).sum() >= near.agreeing:
                first[document] = other
                break
        else:
            kept.append(document)
    return first


def test_what_is_found_equals_a_comparison_of_all_pairs(pool):
    rng = random.Random(4)
    texts = [alike.text(rng, pool, 60) for _ in range(60)]
    for _ in range(240):  # chains: copies of copies
        texts.append(alike.edited(rng, rng.choice(texts), pool, rng.choice([0, 0.03, 0.06, 0.1])))
    rng.shuffle(texts)
    signed = signatures(texts, NEAR)
    expected = by_all_pairs(signed, NEAR)
    assert 60 < len(set(expected)) < 280
    assert near_duplicates(signed, Near(compared=1000)).tolist() == expected


def agreeing(*counts: int) -> np.ndarray:
    """Make one signature for each count: the next agrees with the one before in its last, not its first, numbers."""
    rows = [np.arange(1, 121, dtype=np.uint32)]
    for number, count in enumerate(counts, 1):
        row = rows[-1].copy()
        changed = np.flatnonzero(row < 1000)[: 120 - count]
        row[changed] = 1000 * number + np.arange(len(changed))
        rows.append(row)
    return np.array(rows)


def test_the_end_of_a_chain_that_is_like_no_kept_document_stays():
    chain = agreeing(100, 100)  # B is like A, C like B; A and C have 80 numbers in common, of 88
    assert [(chain[a] == chain[b]).sum() for a, b in ((0, 1), (1, 2), (0, 2))] == [100, 100, 80]
    assert NEAR.agreeing == 88
    assert near_duplicates(chain, NEAR).tolist() == [0, 0, 2]
    assert near_duplicates(chain[[1, 0, 2]], NEAR).tolist() == [0, 0, 0]


def test_every_copy_names_a_kept_document_before_it(pool):
    texts, _ = alike.planted(5, 500, pool, 100)
    first = near_duplicates(signatures(texts * 3, NEAR), NEAR)
    assert (first <= np.arange(len(first))).all()
    assert (first[first] == first).all()
    assert (first[500:] < 500).all()


class Counting:
    """Signatures that count how many of them are asked for."""

    def __init__(self, signed: np.ndarray) -> None:
        self.signed, self.asked = signed, 0
        self.ndim, self.shape = signed.ndim, signed.shape

    def __len__(self) -> int:
        return len(self.signed)

    def __getitem__(self, key):
        answer = self.signed[key]
        if not isinstance(key, tuple):
            self.asked += len(answer) if answer.ndim > 1 else 1
        return answer


@pytest.mark.parametrize("copies", [True, False])
def test_a_key_that_all_documents_share_takes_linear_time(copies):
    documents, near = 3000, Near(compared=8)
    numbers = np.random.default_rng(0).integers(1, 2**31, (documents, near.hashes), np.uint32)
    numbers[:, : near.rows] = 7
    signed = Counting(np.repeat(numbers[:1], documents, axis=0) if copies else numbers)
    first = near_duplicates(signed, near)  # pyright: ignore[reportArgumentType]
    assert len(set(first.tolist())) == (1 if copies else documents)
    assert signed.asked <= documents * (near.compared + 1)


def test_signatures_on_disk_will_do(tmp_path, pool):
    texts, _ = alike.planted(6, 300, pool, 100)
    signed = signatures(texts, NEAR)
    np.save(tmp_path / "signed.npy", signed)
    mapped = np.load(tmp_path / "signed.npy", mmap_mode="r")
    assert near_duplicates(mapped, NEAR).tolist() == near_duplicates(signed, NEAR).tolist()


def test_no_documents_have_no_duplicates():
    assert signatures([], NEAR).shape == (0, 120)
    assert near_duplicates(signatures([], NEAR), NEAR).tolist() == []


def test_signatures_of_other_settings_are_refused():
    with pytest.raises(ValueError, match="not of 120 numbers"):
        near_duplicates(np.zeros((3, 64), np.uint32), NEAR)


def test_bands_that_would_miss_the_pairs_are_refused():
    with pytest.raises(ValidationError, match=r"20 bands of 6 rows look at 27% of the pairs of similarity 0\.5"):
        Near(similarity=0.5)
    assert Near(similarity=0.5, bands=40, rows=3).chance(0.5) > 0.99


@pytest.mark.parametrize("similarity", [0.01, 0.1, 0.3, 0.5, 0.7])
def test_bands_that_a_refusal_names_are_taken(similarity):
    with pytest.raises(ValidationError) as refused:
        Near(similarity=similarity, bands=6, rows=9)
    named = re.search(r"Set bands = (\d+) and rows = (\d+) in the table \[near\]", str(refused.value))
    assert named
    assert Near(similarity=similarity, bands=int(named[1]), rows=int(named[2])).chance(similarity) >= 0.9


def test_pairs_are_looked_at_and_found_as_often_as_the_settings_say():
    rng = np.random.default_rng(1)
    one = rng.integers(1, 2**31, (4000, NEAR.hashes), np.uint32)
    for similarity, least, most in ((0.84, 0.995, 1), (0.8, 0.96, 0.98), (0.7, 0.22, 0.28), (0.6, 0, 0.004)):
        other = np.where(rng.random(one.shape) < similarity, one, one + 1)
        together = (one == other).reshape(-1, NEAR.bands, NEAR.rows).all(axis=2).any(axis=1).mean()
        assert abs(together - NEAR.chance(similarity)) < 0.03
        first = near_duplicates(np.concatenate([one, other]), NEAR)
        assert least <= (first[len(one) :] == np.arange(len(one))).mean() <= most


@pytest.mark.slow
def test_planted_pairs_above_four_fifths_are_found_and_good_documents_stay():
    texts, pairs = alike.planted(7, 6000, alike.sentences())
    found, lost = alike.found_and_lost(texts, pairs, near_duplicates(signatures(texts, NEAR), NEAR).tolist())
    assert sum(pair.similarity > 0.8 for pair in pairs) > 150
    assert found >= 0.95
    assert lost <= 0.01
