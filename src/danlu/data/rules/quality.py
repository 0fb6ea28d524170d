"""What prose is made of: shares of symbols, digits and punctuation, words of grammar, repeated sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from danlu.data.characters import Kind, code_points, kinds
from danlu.types import Document, Drop

_WINDOW = 10_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_HAN = (Kind.HAN, Kind.FUNCTION, Kind.GARBLED)


@dataclass(frozen=True)
class AtMost:
    """Drop a text more than `share` of whose characters are of one kind.

    Source: Rae et al. 2021, "Scaling Language Models" (Gopher), A.1.1, symbol-to-word ratio, for characters.
    """

    kind: Kind
    share: float
    reason: str

    def __call__(self, document: Document) -> Document | Drop:
        """Count the kind."""
        text = document.text
        return Drop(self.reason) if kinds(text)[self.kind] > self.share * len(text) else document


@dataclass(frozen=True)
class FunctionWords:
    """Drop a text of at least `from_characters` whose Han characters are `FUNCTION_WORDS` to less than `share`.

    Lists of keywords, names and menus have next to none. Source: Gopher, A.1.1, asks for two different stop words.
    """

    share: float
    from_characters: int

    def __call__(self, document: Document) -> Document | Drop:
        """Count the words of grammar."""
        counts = kinds(document.text)
        han = sum(counts[kind] for kind in _HAN)
        few = han >= self.from_characters and counts[Kind.FUNCTION] < self.share * han
        return Drop("few_function_words") if few else document


@dataclass(frozen=True)
class RepeatedSequences:
    """Drop a text that says the same again and again, whatever its lines.

    Of all sequences of 8 characters, those that came before may be at most `repeated`; the most frequent sequence of 4
    characters may make up at most `top` of the text; asked from `from_characters` on. Counted in windows of
    10,000 characters, for the shares of a long text would grow with its length. Sequences are told apart by a 64-bit
    hash. Of lines that are alike the first counts: copies of lines are the matter of `RepeatedLines`.
    Source: Gopher, A.1.1 and table A1: duplicate n-grams of 5 to 10 words, top n-grams of 2 to 4; a word is taken for
    two characters.
    """

    repeated: float
    top: float
    from_characters: int

    def __call__(self, document: Document) -> Document | Drop:
        """Sort the hashes of all sequences, window by window."""
        text = _each_line_once(document.text)
        characters = len(text)
        if characters < self.from_characters:
            return document
        again = most = 0
        for codes in code_points(text, _WINDOW):
            fours = _joined(_joined(codes.astype(np.uint64), 1), 2)
            ordered = np.sort(fours)
            copies = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
            if characters == len(codes) and self._allows(copies, 4 * (copies + 1), characters):
                return document  # a copy of eight begins with a copy of four
            again += _repeated(_joined(fours, 4))
            most += 4 * _most_frequent(ordered)
        return document if self._allows(again, most, characters) else Drop("repeated_sequences")

    def _allows(self, again: int, most: int, characters: int) -> bool:
        return again <= self.repeated * characters and most <= self.top * characters


def _each_line_once(text: str) -> str:
    lines = text.split("\n")
    return text if len(lines) == 1 else "\n".join(dict.fromkeys(lines))


def _joined(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hashes of sequences twice as long, from those of sequences of `length`."""
    joined = hashes[:-length] * _MULTIPLIER
    joined ^= joined >> _SHIFT  # or sums of products would not depend on the order of the halves
    joined += hashes[length:]
    return joined


def _repeated(hashes: np.ndarray) -> int:
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _most_frequent(ordered: np.ndarray) -> int:
    """Return how often the most frequent of sorted hashes occurs; 0 where none occurs three times."""
    if not len(ordered) or not (ordered[2:] == ordered[:-2]).any():
        return 0
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    return int(np.diff(starts).max())
