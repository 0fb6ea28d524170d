"""A survey is the same whatever the parts, their order and the process; its figures are those of plain counting."""

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest

from danlu.data import profile
from danlu.data.characters import Kind, kinds
from danlu.data.difference import Difference
from danlu.data.profile import LANGUAGES, Profile
from danlu.data.sample import Smallest
from danlu.data.survey import Survey
from danlu.types import Document

WORDS = ["炼丹", "的", "炉火", "model", "12", "。", "，", " ", "ひらがな", "\n", "★", "\ud800", "\x00", "Ａ"]
RULES = ["links", "menu", "too_short"]


def corpus(seed: int, count: int = 400) -> list[Document]:
    rng = random.Random(seed)
    texts = ["".join(rng.choices(WORDS, k=rng.randint(0, 60))) for _ in range(count)]
    return [Document(text, f"源/{rng.randint(0, 3)}.jsonl", str(n)) for n, text in enumerate(texts)]


def surveyed(documents, seed: int = 0) -> Survey:
    """Read every document; its number says what becomes of it."""
    survey = Survey()
    for document in documents:
        number = int(document.id)
        survey.read(document)
        if number % 3 == 0:
            survey.dropped(document, RULES[number % 4 % 3], "rule")
            continue
        after = Document(document.text.replace("的", ""), document.source, document.id)
        if after.text != document.text:
            survey.changed(document, after, "without_de")
        if number % 5 == 0:
            survey.repeats(document, ["版权所有", f"第{number % 7}页"])
            survey.contamination({f"题{number % 11}": 1})
        survey.kept(after)
    return survey


def through_json(survey: Survey) -> Survey:
    return Survey.from_dict(json.loads(json.dumps(survey.as_dict(), ensure_ascii=False).encode().decode()))


@pytest.mark.parametrize("seed", range(6))
def test_parts_merged_in_any_order_make_the_survey_of_the_whole(seed, monkeypatch):
    monkeypatch.setattr(profile, "OPENINGS", 50)  # fewer than there are documents: what is held is chosen
    monkeypatch.setattr(profile, "SAMPLED", 30)
    documents, rng = corpus(seed), random.Random(seed)
    whole = surveyed(documents).as_dict()
    cuts = [0, *sorted(rng.sample(range(1, len(documents)), 7)), len(documents)]
    parts = [surveyed(documents[a:b]) for a, b in pairwise(cuts)]
    rng.shuffle(parts)
    while len(parts) > 1:  # as a tree, not one after another
        one, other = parts.pop(rng.randrange(len(parts))), parts.pop(0)
        one = through_json(one) if rng.random() < 0.5 else one
        one.merge(other)
        parts.append(one)
    assert parts[0].as_dict() == whole


def test_the_order_of_documents_does_not_matter():
    documents = corpus(9)
    shuffled = random.Random(0).sample(documents, len(documents))
    assert surveyed(documents).as_dict() == surveyed(shuffled).as_dict()


def test_json_keeps_everything_and_utf8_can_hold_it():
    survey = surveyed(corpus(1))
    survey.clusters(np.array([0, 0, 2, 2, 2]))
    survey.member(2, Document("近重", "a", "2"))
    assert through_json(survey).as_dict() == survey.as_dict()


def test_the_seed_of_pythons_hashes_does_not_matter():
    code = (
        "import sys, json; sys.path[:0] = [sys.argv[1]]; from test_survey import corpus, surveyed; "
        "print(json.dumps(surveyed(corpus(3)).as_dict()))"
    )
    folder = os.path.dirname(__file__)  # noqa: PTH120
    said = [
        subprocess.run(
            [sys.executable, "-c", code, folder],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0]) > 1000


def test_counts_are_those_of_plain_counting():
    documents = corpus(2)
    survey = surveyed(documents)
    dropped = [d for d in documents if int(d.id) % 3 == 0]
    for reason in RULES:
        texts = [d.text for d in dropped if RULES[int(d.id) % 4 % 3] == reason]
        tally = survey.drops["rule", reason]
        assert (tally.documents, tally.taken, tally.given) == (len(texts), sum(map(len, texts)), 0)
    changed = [d.text for d in documents if int(d.id) % 3 and "的" in d.text]
    assert survey.changes["without_de"].documents == len(changed)
    assert survey.changes["without_de"].taken == sum(text.count("的") for text in changed)
    assert survey.came.documents == survey.stayed.documents + len(dropped) == len(documents)
    assert survey.came.characters == sum(len(d.text) for d in documents)
    assert survey.came.lengths == Counter(len(d.text) for d in documents)
    for source in {d.source for d in documents}:
        texts = [d.text for d in documents if d.source == source]
        assert survey.came.sources[source] == [len(texts), sum(map(len, texts))]


def test_characters_that_grow_and_shrink_are_counted_apart():
    survey = Survey()
    for before, after in [("一二三", "一"), ("一", "一二三四"), ("Ａ", "A")]:
        survey.changed(Document(before, "s", before), Document(after, "s", before), "rule")
    tally = survey.changes["rule"]
    assert (tally.documents, tally.taken, tally.given) == (3, 2, 3)


def test_kinds_of_many_texts_at_once_are_those_of_each_one(monkeypatch):
    monkeypatch.setattr(profile, "_BATCH", 100)  # some of the texts are longer, and counted alone
    documents = corpus(4)
    found = Profile()
    for document in documents:
        found.add(document)
    expected = np.sum([kinds(d.text) for d in documents], axis=0)
    assert found.as_dict()["kinds"] == expected.tolist()
    assert expected[Kind.LETTER] > 0


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气很好，我们去公园。", "Chinese"),
        ("用 Python 写一个程序，打印 hello。", "Chinese and Latin"),
        ("The quick brown fox 狐", "Latin script"),
        ("今日はいい天気ですね。", "another script"),
        ("오늘은 날씨가 좋네요", "another script"),
        ("Привет, мир", "another script"),
        ("123 +-*/ ……", "no letters"),
        ("", "no letters"),
    ],
)
def test_languages_are_told_by_letters(text, language):
    found = Profile()
    found.add(Document(text, "s", "1"))
    languages = dict(zip(LANGUAGES, found.as_dict()["languages"], strict=True))
    assert languages == {name: [1, len(text)] if name == language else [0, 0] for name in LANGUAGES}


def test_examples_are_the_documents_with_the_smallest_hashes():
    documents = corpus(5)
    survey = Survey()
    for document in documents:
        survey.dropped(document, "reason", "rule")

    def key(d: Document) -> bytes:
        whole = f"{d.source}\0{d.id}\0{d.text}".encode("utf-8", "surrogatepass")
        return blake2b(whole, digest_size=8).digest()[::-1]

    chosen = [entry[2] for entry in survey.drops["rule", "reason"].examples.entries()]
    assert chosen == [d.id for d in sorted(documents, key=key)[:20]]


def test_smallest_equals_sorting_everything_with_equal_keys_too():
    rng = random.Random(0)
    entries = [(rng.randint(0, 300), rng.choice("甲乙丙丁")) for _ in range(2000)]
    held, expected = Smallest(40), sorted(entries)[:40]
    for entry in entries:
        assert held.wants(entry[0]) or entry > expected[-1]
        held.add(*entry)
    assert held.entries() == expected


def test_openings_are_exact_where_all_are_held_and_fair_where_not():
    rng = random.Random(0)
    texts = [f"基于以上这段文本，第{n}篇" if rng.random() < 0.01 else f"{n}：各不相同的开头" for n in range(60_000)]
    few, many = Profile(), Profile()
    for n, text in enumerate(texts):
        many.add(Document(text, "s", str(n)))
        if n < 5000:
            few.add(Document(text, "s", str(n)))
    for found, own in ((few, texts[:5000]), (many, texts)):
        openings = [opening for _, opening in found.openings.entries()]
        share = sum(o.startswith("基于以上这段文本") for o in openings) / len(openings)
        true = sum(t.startswith("基于以上这段文本") for t in own) / len(own)
        if found is few:
            assert share == true
        assert abs(share - true) < 4 * (0.01 / 10_000) ** 0.5
    assert len(many.openings.entries()) == 10_000


def test_memory_stays_bounded():
    survey = Survey()
    text = "一个很长的文档。" * 250

    def feed(first: int, last: int) -> None:
        for n in range(first, last):
            document = Document(f"{n}{text}", "s", str(n))
            survey.read(document)
            survey.dropped(document, "reason", "rule")
            survey.repeats(document, [f"第{n}行", "版权所有"])

    feed(0, 10_500)
    tracemalloc.start()
    feed(10_500, 14_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 3e6  # 14 MB of text went through


def test_clusters_are_counted_by_size_and_the_largest_are_shown():
    rng = random.Random(0)
    firsts = np.arange(3000)
    for n in range(1, 3000):
        if rng.random() < 0.5:
            firsts[n] = firsts[rng.randrange(n)]
    sizes = Counter(firsts.tolist())
    survey = Survey()
    shown = survey.clusters(firsts)
    assert survey.cluster_sizes == Counter(size for size in sizes.values() if size > 1)
    assert list(shown.items()) == sorted(((f, s) for f, s in sizes.items() if s > 1), key=lambda p: (-p[1], p[0]))[:20]
    assert Survey().clusters(np.zeros(0, dtype=np.int64)) == {}


def test_a_clusters_texts_are_few():
    survey = Survey()
    for n in range(100):
        survey.member(7, Document(f"近重复{n}", "s", str(n)))
    assert len(survey.members[7].entries()) == 4


def test_repeated_lines_are_counted_by_what_they_are():
    survey = Survey()
    for n in range(50):
        survey.repeats(Document(f"{n}", "s", str(n)), ["版权所有", "版权所有", "来源"] if n % 2 else ["来源"])
    lines = Counter(line for _, line in survey.lines.entries())
    assert lines == {"来源": 50, "版权所有": 50}
    assert survey.repeated == {"documents": 50, "lines": 100, "characters": 300}


def test_a_change_of_a_long_text_keeps_only_what_differs():
    survey = Survey()
    words = "".join(chr(0x4E00 + n % 20_000) for n in range(600_000))
    survey.changed(Document(words, "s", "1"), Document(words[:300_000] + words[300_008:], "s", "1"), "rule")
    (entry,) = survey.changes["rule"].examples.entries()
    found = Difference(*entry[3:])
    assert found == Difference(
        300_000, words[299_940:300_000], words[300_000:300_008], 8, "", 0, words[300_008:300_068]
    )
