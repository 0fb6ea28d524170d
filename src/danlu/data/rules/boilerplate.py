"""Boilerplate and advertisement: what a list of phrases gives away is cut, texts full of it dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from danlu.data.rules.phrases import PHRASES, Phrases, phrases_of
from danlu.types import Document, Drop

_SENTENCES = re.compile("[^。！？]*[。！？]+[”’」』）]*|[^。！？]+")
_LEFT = 0.5
"""Of a short line, this must be left, or it goes whole."""


@dataclass(frozen=True)
class CutBoilerplate:
    """Cut sentences with a phrase of the list, and, with `page_lines`, lines that are no more than parts of a page.

    Of a line of up to `line` characters half must be left, or it goes whole. A text more than `share` of which would be
    cut is dropped. The list, `phrases.txt`, says what counts.
    Source: after C4 (Raffel et al. 2020, section 2.2), which drops lines that ask for JavaScript or name a policy, and
    pages with words of a list.
    """

    line: int
    share: float
    phrases: Path = PHRASES
    page_lines: bool = True
    _phrases: Phrases = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_phrases", phrases_of(self.phrases))

    def __call__(self, document: Document) -> Document | Drop:
        """Cut, or drop."""
        text = document.text
        if not self._phrases.in_sentence(text) and not any(map(self._is_part_of_a_page, text.split("\n"))):
            return document
        kept = "\n".join(line for line in self._lines(text) if line is not None)
        if kept == text:
            return document
        cut = len(text) - len(kept)
        return Drop("advertisement") if cut > self.share * len(text) else replace(document, text=kept.strip())

    def _lines(self, text: str) -> Iterator[str | None]:
        """Yield what is left of each line, None for a line of which nothing is."""
        for line in text.split("\n"):
            if self._is_part_of_a_page(line):
                yield None
                continue
            sentences = _SENTENCES.findall(line)
            kept = "".join(s for s in sentences if not self._phrases.in_sentence(s))
            yield kept if len(kept) == len(line) or len(kept) >= self._least(line) else None

    def _is_part_of_a_page(self, line: str) -> bool:
        return self.page_lines and self._phrases.is_part_of_a_page(line)

    def _least(self, line: str) -> float:
        return 1 if len(line) > self.line else max(1, _LEFT * len(line))
