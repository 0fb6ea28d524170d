"""Exact deduplication: the first of its kind stays, in a few bytes a document."""

import random

from danlu.data.clean import Counts, clean
from danlu.data.dedup import ExactDedup, normalised_hash
from danlu.types import Document, Drop


def document(text: str) -> Document:
    return Document(text, "source", "1")


def test_the_first_stays_and_every_later_copy_goes():
    counts = Counts()
    texts = ["一", "二", "一", "三", "二", "一"]
    kept = [d.text for d in clean(map(document, texts), [ExactDedup()], counts)]
    assert kept == ["一", "二", "三"]
    assert counts.dropped == {"duplicate": 3}


def test_copies_that_differ_in_spacing_are_equal():
    copies = ["一 二", "一二", "一\n二", "\u3000一  二\t"]
    assert len({normalised_hash(text) for text in copies}) == 1
    rule = ExactDedup()
    assert [rule(document(text)) for text in copies[1:]][1:] == [Drop("duplicate")] * 2


def test_a_different_text_has_a_different_hash():
    texts = ["", "一", "二", "一二", "二一", "一，二", "A", "a", "Ａ", "\ud800", "\ud801"]
    assert len({normalised_hash(text) for text in texts}) == len(texts)


def test_the_hash_is_the_same_on_every_machine_and_day():
    assert normalised_hash("炉火纯青") == 0xEDA96611BE4C925D


def test_the_hash_is_spread_evenly_so_that_a_split_by_it_is_fair():
    held_out = sum(normalised_hash(f"第{n}篇") < 0.05 * 2**64 for n in range(20_000))
    assert abs(held_out - 1000) < 5 * (20_000 * 0.05 * 0.95) ** 0.5


def test_it_agrees_with_a_set_while_the_table_grows():
    texts = [str(n) for n in random.Random(0).choices(range(80_000), k=200_000)]
    rule, seen = ExactDedup(), set()
    for text in texts:
        assert isinstance(rule(document(text)), Drop) == (text in seen)
        seen.add(text)


def test_the_table_takes_12_to_24_bytes_a_document():
    rule = ExactDedup()
    for n in range(100_000):
        rule(document(str(n)))
    assert 12 <= rule.bytes / 100_000 <= 24
