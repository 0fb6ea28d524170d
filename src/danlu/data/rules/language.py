"""Is it Chinese? By the share of Han characters; by a language identifier where that is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from danlu.data.characters import Kind, kinds, kinds_of_parts
from danlu.data.rules.encoding import optional
from danlu.types import Document, Drop

Identify = Callable[[str], tuple[str, float]]
"""A text's language and how sure that is."""
_READ = 2_000
_FEWEST_HAN = 20
_CLAUSES = re.compile("[^\n。！？!?，；：“”‘’「」『』]+")


@dataclass(frozen=True)
class Chinese:
    """Drop a text fewer than `share` of whose letters are Han, or more than `other_letters` of a third script.

    An English word has some five letters and a Chinese one some two, so a text that is Chinese in half of its words has
    a share of 0.3. Japanese shows by its kana. A text that fails is looked at by clauses (an abstract in two languages,
    a quotation): it stays where those that pass hold `clauses` of its words, and 20 Han.
    """

    share: float
    other_letters: float
    clauses: float = 1

    def __call__(self, document: Document) -> Document | Drop:
        """Count letters, of the text and, if need be, of its clauses."""
        counts = kinds(document.text)
        if not _han(counts):
            return Drop("not_chinese")
        if self._passes(counts):
            return document
        each = kinds_of_parts(_CLAUSES.findall(document.text)).T
        chinese = _han(each[:, self._passes(each)]).sum()
        words = (_han(each) / 2 + _latin(each) / 5 + each[Kind.LETTER] / 2).sum()
        enough = chinese >= _FEWEST_HAN and chinese / 2 >= self.clauses * words
        return document if enough else Drop("not_chinese")

    def _passes(self, counts: Any) -> Any:
        """Judge the counts of a text, or of many: those of a kind in a row."""
        han, other = _han(counts), counts[Kind.LETTER]
        letters = han + _latin(counts) + other
        return (han >= self.share * letters) & (other <= self.other_letters * letters)


def _han(counts: Any) -> Any:
    return counts[Kind.HAN] + counts[Kind.FUNCTION] + counts[Kind.GARBLED]


def _latin(counts: Any) -> Any:
    return counts[Kind.LATIN] + counts[Kind.WIDE] + counts[Kind.UPPER_LATIN]


@dataclass(frozen=True)
class Identified:
    """Drop a text that a language identifier takes for another language; it sees the first 2,000 characters."""

    identify: Identify
    language: str = "zh"

    def __call__(self, document: Document) -> Document | Drop:
        """Ask the identifier."""
        return document if self.identify(document.text[:_READ])[0] == self.language else Drop("other_language")


def py3langid() -> Identify:
    """Return the identifier of the package py3langid (97 languages, its model comes with it; about 4 MB/s a core)."""
    return optional("py3langid", "identifying languages").classify
