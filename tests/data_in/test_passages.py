"""Few or very long documents are cut into passages; nothing is lost, and what need not be cut is not."""

import pytest

from danlu.data import passages as passages_module
from danlu.data.passages import FEW_DOCUMENTS, LONG_CHARACTERS, PASSAGE_CHARACTERS, Passages, cut
from danlu.types import Document

LONGEST = PASSAGE_CHARACTERS[1]


def documents(texts):
    return [Document(text, "test", str(n)) for n, text in enumerate(texts)]


def novel(characters: int) -> str:
    sentences = (f"第{n}句，炉火纯青。" for n in range(characters))
    text = ""
    while len(text) < characters:
        text += next(sentences)
    return text[:characters]


@pytest.mark.parametrize("text", ["", "a", "一" * 999, "句。" * 333, "段\n" * 500])
def test_cut_pieces_join_to_the_text(text):
    pieces = list(cut(text, 100))
    assert "".join(pieces) == text
    assert all(len(p) <= 100 for p in pieces)


def test_a_novel_is_cut_into_passages_without_loss(texts):
    whole = "\n".join(texts)
    passages = Passages(documents([whole]))
    pieces = list(passages)
    assert "".join(p.text for p in pieces) == whole
    assert len(pieces) > 50
    assert passages.cut == 1


def test_a_very_long_document_is_cut_in_any_corpus():
    short = [f"短文{n}" for n in range(3 * FEW_DOCUMENTS)]
    long = novel(LONG_CHARACTERS + 1)
    passages = Passages(documents([*short[:200], long, *short[200:]]))
    pieces = list(passages)
    assert passages.cut == 1
    assert [p.text for p in pieces if p.id.isdigit()] == short
    parts = [p.text for p in pieces if p.id.startswith("200#")]
    assert "".join(parts) == long
    assert max(map(len, parts)) <= LONGEST
    assert all(part.endswith("。") for part in parts[:-1])
    assert [p.text for p in pieces][200 : 200 + len(parts)] == parts  # in their place


def test_a_document_of_the_limit_stays_whole_among_many():
    texts = ["一" * LONG_CHARACTERS, *map(str, range(FEW_DOCUMENTS))]
    passages = Passages(documents(texts))
    assert [p.text for p in passages] == texts
    assert passages.cut == 0


def test_short_documents_of_a_small_corpus_stay_whole_and_are_not_counted():
    texts = ["一" * 150, "二" * 5000, "三" * 200]
    passages = Passages(documents(texts))
    assert [p.text for p in passages if p.id in "02"] == [texts[0], texts[2]]
    assert passages.cut == 1


def test_counting_starts_anew_with_every_reading():
    passages = Passages(documents(["一" * 5000]))
    assert list(passages) == list(passages)
    assert passages.cut == 1


def test_long_documents_stream_and_no_more_of_them_is_held_than_stated(monkeypatch):
    monkeypatch.setattr(passages_module, "LONG_CHARACTERS", LONGEST)
    taken = 0

    def novels():
        nonlocal taken
        while True:
            taken += 1
            yield Document("一" * 100_000, "test", str(taken))

    pieces = iter(Passages(novels()))
    next(pieces)
    assert taken == FEW_DOCUMENTS * LONGEST / 100_000  # though fewer than 100 documents
