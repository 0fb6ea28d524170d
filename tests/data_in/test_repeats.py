"""Repeated passages: counted exactly in little memory, cut wherever they stand, whatever the order of the corpus."""

import random
from collections import Counter

import numpy as np
import pytest

from danlu.data.dedup import normalised_hash
from danlu.data.repeats import CutRepeats, RepeatCounts, Repeats, line_hashes
from danlu.errors import OutputError
from danlu.types import Document, Drop

NOTICE = "本文来源于网络，如有侵权，请联系我们及时删除处理。"
STORY = "他推开门，看见院子里的老槐树又抽出了许多新芽来。"
OTHER = "母亲坐在树下缝补衣裳，像很多年以前的那个下午一样。"


def document(text: str) -> Document:
    return Document(text, "source", "1", {"kept": 1})


def cut(text: str, *passages: str, share: float = 1) -> Document | Drop:
    repeated = np.sort(np.array([normalised_hash(passage) for passage in passages], np.uint64))
    return CutRepeats(repeated, 20, share)(document(text))


def test_lines_and_their_sentences_count_once_a_document():
    text = f"{STORY}{NOTICE}\n{NOTICE}\n  {NOTICE} \n短句。短句也算一行但是不到二十字"
    expected = {normalised_hash(passage) for passage in (STORY + NOTICE, STORY, NOTICE)}
    assert line_hashes(text, 20).tolist() == sorted(expected)


def test_white_space_makes_no_passage_longer_or_another():
    assert len(line_hashes("短 句 之 间 有 许 多 空 格 罢 了", 20)) == 0
    assert (line_hashes(" ".join(NOTICE), 20) == line_hashes(NOTICE, 20)).all()


def test_short_sentences_of_a_line_count_together():
    line = "版权所有。翻印必究。联系电话请见首页。谢谢各位合作。"
    assert line_hashes(line, 20).tolist() == [normalised_hash(line)]


@pytest.mark.parametrize("buffered", [300, 2000, 10**9])
def test_counts_equal_those_of_a_dictionary_however_little_is_held(tmp_path, buffered):
    rng = random.Random(0)
    documents = [rng.sample(range(0, 2**64, 2**64 // 300), rng.randint(0, 60)) for _ in range(200)]
    documents += [[2**64 - 1, 0]] * 45
    counts, plain = RepeatCounts(tmp_path, buffered), Counter[int]()
    for number, hashes in enumerate(documents):
        counts.add(np.array(hashes, np.uint64))
        plain.update(hashes)
        if number == 100:  # asking changes nothing
            assert len(counts.repeated(0)) == len(plain)
    for limit in (0, 1, 20, 44, 45, 1000):
        found = counts.repeated(limit)
        assert found.dtype == np.uint64
        assert found.tolist() == sorted(key for key, count in plain.items() if count > limit)


def test_the_order_in_which_documents_are_counted_does_not_matter(tmp_path):
    parts = [np.random.default_rng(n).integers(0, 50, 20, np.uint64) for n in range(30)]
    one, other = RepeatCounts(tmp_path, 64), RepeatCounts(tmp_path, 200)
    for part in parts:
        one.add(part)
    other.add(np.concatenate(parts[::-1]))
    assert one.repeated(12).tolist() == other.repeated(12).tolist()


def test_nothing_counted_is_nothing_repeated():
    assert RepeatCounts().repeated(0).tolist() == []


def test_nothing_stays_on_the_disk(tmp_path):
    counts = RepeatCounts(tmp_path, 1)
    counts.add(np.arange(10, dtype=np.uint64))
    assert len(counts.repeated(0)) == 10
    del counts
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        RepeatCounts(tmp_path / "file", 1).add(np.arange(10, dtype=np.uint64))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{STORY}\n{NOTICE}\n{OTHER}", f"{STORY}\n{OTHER}"),
        (f"{STORY}{NOTICE}{OTHER}", STORY + OTHER),
        (f"{NOTICE}\n{STORY}", STORY),
        (f"{STORY}\n{NOTICE}", STORY),
        (f"{STORY}\n\n  {NOTICE}  \n\n{OTHER}", f"{STORY}\n\n\n{OTHER}"),
        (f"{STORY}{NOTICE}\n{OTHER}", f"{STORY}\n{OTHER}"),
        (f"他说：“{NOTICE[:-1]}。”{STORY}", f"他说：“{NOTICE[:-1]}。”{STORY}"),  # another sentence
    ],
)
def test_a_passage_goes_wherever_it_stands_and_the_rest_stays(text, left):
    assert cut(text, NOTICE) == Document(left, "source", "1", {"kept": 1})


def test_a_line_of_sentences_goes_whole_where_the_line_is_the_passage():
    assert cut(f"{OTHER}\n{STORY}{NOTICE}", STORY + NOTICE) == document(OTHER)


def test_a_document_that_holds_none_is_the_same_object():
    whole = document(f"{STORY}\n{OTHER}")
    assert CutRepeats(np.array([1, 2, 3], np.uint64), 20, 0.5)(whole) is whole
    assert CutRepeats(np.zeros(0, np.uint64), 20, 0.5)(whole) is whole


def test_a_document_of_which_too_much_would_go_is_dropped():
    text = f"{STORY}\n{NOTICE}"
    assert cut(text, NOTICE, share=0.5) == Drop("repeated_passages")
    assert cut(text, NOTICE, share=0.6) == document(STORY)
    assert cut(NOTICE, NOTICE, share=1) == Drop("repeated_passages")


def test_what_was_cut_once_is_not_cut_again():
    rule = CutRepeats(line_hashes(NOTICE, 20), 20, 1)
    once = rule(document(f"{STORY}{NOTICE}\n{OTHER}"))
    assert isinstance(once, Document)
    assert rule(once) is once


def test_sentences_in_more_documents_than_allowed_leave_all_of_them_and_no_others():
    settings = Repeats(more_than=10)
    rng = random.Random(1)
    bodies = ["".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(40)) + "。" for _ in range(40)]
    texts = [body + (NOTICE if n < 11 else "") + (OTHER if n >= 30 else "") for n, body in enumerate(bodies)]
    counts = RepeatCounts()
    for text in texts:
        counts.add(line_hashes(text, settings.passage))
    rule = CutRepeats(counts.repeated(settings.more_than), settings.passage, settings.share)
    answers = [rule(document(text)) for text in texts]
    assert [a.text for a in answers if isinstance(a, Document)] == bodies[:30] + texts[30:]
