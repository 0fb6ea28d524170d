"""Is it Chinese? By the share of Han characters; by a language identifier where that is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from danlu.data.characters import Kind, kinds
from danlu.data.rules.encoding import optional
from danlu.types import Document, Drop

Identify = Callable[[str], tuple[str, float]]
"""A text's language and how sure that is."""
_READ = 2_000


@dataclass(frozen=True)
class Chinese:
    """Drop a text fewer than `share` of whose letters are Han, or more than `other_letters` of a third script.

    An English word has some five letters and a Chinese one some two, so a text that is Chinese in half of its words has
    a share of 0.3. Japanese shows by its kana.
    """

    share: float
    other_letters: float

    def __call__(self, document: Document) -> Document | Drop:
        """Count letters."""
        counts = kinds(document.text)
        han = counts[Kind.HAN] + counts[Kind.FUNCTION] + counts[Kind.GARBLED]
        letters = han + counts[Kind.LATIN] + counts[Kind.WIDE] + counts[Kind.UPPER_LATIN] + counts[Kind.LETTER]
        strange = han < self.share * letters or counts[Kind.LETTER] > self.other_letters * letters
        return Drop("not_chinese") if strange or not han else document


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
