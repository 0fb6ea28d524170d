"""Differences: both texts can be read out of what is marked, and long ones take little time and room."""

import random
import time
from functools import cache

import pytest

from danlu.data.difference import _common_runs, difference, marked

LETTERS = "的一是了我不人在他有，。\n 炼丹炉"


def edited(text: str, rng: random.Random, edits: int) -> str:
    for _ in range(edits):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + "".join(rng.choices(LETTERS, k=rng.randint(0, 4))) + text[at + rng.randint(0, 4) :]
    return text


def read(found, left_out: str) -> str:
    return "".join(text for mark, text in marked(found) if mark != left_out)


@pytest.mark.parametrize("seed", range(40))
def test_both_texts_can_be_read_from_the_marks(seed):
    rng = random.Random(seed)
    before = "".join(rng.choices(LETTERS, k=rng.randint(0, 200)))
    after = edited(before, rng, rng.randint(0, 6))
    found = difference(before, after)
    start = found.start - len(found.lead)
    assert read(found, "new").removeprefix("…").removesuffix(found.tail) == before[start : found.start + found.gone]
    assert read(found, "gone").removeprefix("…").removesuffix(found.tail) == after[start : found.start + found.new]
    assert before[found.start + found.gone :] == after[found.start + found.new :]


def test_what_is_marked_is_what_changed():
    found = difference("今天天气很好，联系电话13800138000，请来。", "今天天气很好，联系电话〈电话〉，请来。")
    assert list(marked(found)) == [
        ("same", "今天天气很好，联系电话"),
        ("gone", "13800138000"),
        ("new", "〈电话〉"),
        ("same", "，请来。"),
    ]


def test_what_is_the_same_is_found_as_early_as_it_can_be():
    found = list(marked(difference("他，身份证号5101，手机160，在。", "他，身份证号〈身份证号〉，手机〈电话〉，在。")))
    assert ("gone", "5101") in found
    assert ("new", "〈身份证号〉") in found
    assert ("same", "，手机") in found


@pytest.mark.parametrize("seed", range(20))
def test_common_runs_are_as_long_as_can_be(seed):
    rng = random.Random(seed)
    one, other = ("".join(rng.choices("甲乙丙", k=rng.randint(0, 12))) for _ in range(2))

    @cache
    def longest(i: int, k: int) -> int:
        if not i or not k:
            return 0
        if one[i - 1] == other[k - 1]:
            return longest(i - 1, k - 1) + 1
        return max(longest(i - 1, k), longest(i, k - 1))

    runs = _common_runs(one, other)
    assert sum(length for _, _, length in runs) == longest(len(one), len(other))
    assert all(one[i : i + length] == other[k : k + length] for i, k, length in runs)


def test_two_changes_have_what_is_between_them():
    before = "Ｐｙｔｈｏｎ是一种语言，第３版出版于二〇〇八年。"
    after = "Python是一种语言，第3版出版于二〇〇八年。"
    marks = [mark for mark, _ in marked(difference(before, after))]
    assert marks == ["same", "gone", "new", "same", "gone", "new", "same"]


def test_equal_texts_have_no_difference():
    found = difference("一样", "一样")
    assert (found.gone, found.new) == (0, 0)
    assert read(found, "new") == "一样"


def test_a_passage_cut_from_the_front_of_a_long_text_is_not_shown_as_new():
    rng = random.Random(0)
    lines = ["".join(rng.choices(LETTERS[:10], k=40)) for _ in range(200)]
    before = "\n".join(lines)
    after = "\n".join([*lines[:5], *lines[60:100], *lines[120:]])
    assert not [text for mark, text in marked(difference(before, after)) if mark == "new"]


@pytest.mark.parametrize("after", ["一" * 900_000 + "二", "二" * 1_000_000, "", "一二" * 500_000])
def test_a_million_characters_take_little_time_and_room(after):
    began = time.process_time()
    found = difference("一" * 1_000_000, after)
    shown = list(marked(found))
    assert time.process_time() - began < 2
    assert sum(len(text) for _, text in shown) < 3000
