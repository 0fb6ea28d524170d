"""Long documents become passages, so that some of a novel can be held out and none outweighs a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from danlu.types import Document

FEW_DOCUMENTS = 100
LONG_CHARACTERS = 200_000
PASSAGE_CHARACTERS = (200, 16_000)
_BORDERS = ("\n", "。", "！", "？", ".", "，", " ")


@dataclass
class Passages:
    """Documents, the long ones cut; iterating streams them anew, and `cut` counts the documents that were cut.

    In a small corpus, of fewer than 100 documents and 20 million characters, what is longer than a hundredth of the
    whole (at least 200, at most 16,000 characters) is cut to that length. In any other corpus a document of more than
    200,000 characters is cut to at most 16,000. Memory: the documents of a small corpus, at most, and one more.
    """

    documents: Iterable[Document]
    cut: int = 0

    def __iter__(self) -> Iterator[Document]:
        self.cut = 0
        stream = iter(self.documents)
        first, characters = _head(stream)
        shortest, longest = PASSAGE_CHARACTERS
        limit, uncut = longest, LONG_CHARACTERS
        if len(first) < FEW_DOCUMENTS and characters < FEW_DOCUMENTS * LONG_CHARACTERS:
            limit = uncut = min(longest, max(shortest, characters // FEW_DOCUMENTS))
        for document in chain(first, stream):
            if len(document.text) <= uncut:
                yield document
                continue
            self.cut += 1
            for number, text in enumerate(cut(document.text, limit)):
                yield Document(text, document.source, f"{document.id}#{number}", document.meta)


def _head(stream: Iterator[Document]) -> tuple[list[Document], int]:
    """Take documents until it is clear whether the corpus is small; return them and their characters."""
    held: list[Document] = []
    characters = 0
    for document in stream:
        held.append(document)
        characters += len(document.text)
        if len(held) >= FEW_DOCUMENTS or characters >= FEW_DOCUMENTS * LONG_CHARACTERS:
            break
    return held, characters


def cut(text: str, limit: int) -> Iterator[str]:
    """Cut a text into pieces of at most `limit` characters, after a paragraph or sentence where there is one.

    The pieces joined are the text.
    """
    start = 0
    while len(text) - start > limit:
        window = text[start : start + limit]
        ends = (window.rfind(border, limit // 2) + 1 for border in _BORDERS)
        stop = start + next((end for end in ends if end), limit)
        yield text[start:stop]
        start = stop
    if start < len(text) or not text:
        yield text[start:]
