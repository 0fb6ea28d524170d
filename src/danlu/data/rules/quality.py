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
    hash.
    Source: Gopher, A.1.1 and table A1: duplicate n-grams of 5 to 10 words, top n-grams of 2 to 4; a word is taken for
    two characters.
    """

    repeated: float
    top: float
    from_characters: int

    def __call__(self, document: Document) -> Document | Drop:
        """Sort the hashes of all sequences, window by window."""
        characters = len(document.text)
        if characters < self.from_characters:
            return document
        again = most = 0
        for codes in code_points(document.text, _WINDOW):
            fours = _joined(_joined(codes.astype(np.uint64), 1), 2)
            again += _repeated(_joined(fours, 4))
            most += 4 * _most_frequent(fours)
        if again > self.repeated * characters or most > self.top * characters:
            return Drop("repeated_sequences")
        return document


def _joined(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hashes of sequences twice as long, from those of sequences of `length`."""
    joined = hashes[:-length] * _MULTIPLIER
    joined ^= joined >> _SHIFT  # or sums of products would not depend on the order of the halves
    joined += hashes[length:]
    return joined


def _repeated(hashes: np.ndarray) -> int:
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _most_frequent(hashes: np.ndarray) -> int:
    """Return how often the most frequent one occurs; 0 where none occurs three times."""
    ordered = np.sort(hashes)
    if not len(ordered) or not (ordered[2:] == ordered[:-2]).any():
        return 0
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    return int(np.diff(starts).max())
