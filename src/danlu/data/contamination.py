"""Contamination: documents that hold a good part of an evaluation text are dropped, and counted by text.

GPT-3 (Brown et al. 2020, appendix C) looks for sequences of 13 words. Chinese does not part its words; 13 characters
are some eight of them, and one such sequence in common proves nothing: 中华人民共和国国务院办公厅 is one.
A shorter text is looked for as a whole, where it stands alone: between punctuation or the ends of lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from pydantic import Field

from danlu.config import Table
from danlu.data.characters import RANGES, code_points
from danlu.data.grams import BLOCK, character_hashes, folded, gram_hashes, letters, span_hashes
from danlu.types import Document, Drop

_SLOTS_EACH = 16
_FEWEST_SLOTS = 1 << 12
_OPENING = 60
_SIGN, _BLANK = np.uint64(0), np.uint64(1)
_END = np.array([_SIGN])
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_HAN = np.concatenate([np.arange(first, last + 1) for first, last in RANGES["han"]])
_NONE, _NO_HASHES = np.zeros(0, np.int64), np.zeros(0, np.uint64)


class Decontaminate(Table):
    """When a document holds an evaluation text: enough of the text's sequences of `gram` characters stand in it.

    Enough are `share` of them or `enough`, whichever are fewer, but not fewer than `fewest`, or all that the text has.
    A line of a text that is shorter than a sequence stands in it where all of it does, alone. Only letters, digits and
    Han count as characters.
    """

    gram: int = Field(default=13, ge=1, description="characters of the sequences looked for")
    shortest: int = Field(default=6, ge=1, description="Han that a shorter text needs to be looked for, whole")
    share: float = Field(default=0.3, gt=0, le=1, description="share of an evaluation text's sequences")
    enough: int = Field(default=200, ge=1, description="sequences that are enough of however long a text")
    fewest: int = Field(default=8, ge=1, description="sequences that are needed of a short text, unless it has fewer")
    template: float = Field(
        default=0.05, ge=0, le=1, description="share of the texts, from ten on, that make a sequence mere template"
    )


@dataclass(frozen=True, eq=False)
class Contamination:
    """Drop documents that hold enough of an evaluation text, and count in `found` which texts were, by number.

    `grams` are the distinct sequences of all texts, sorted; those of number i are in the texts
    `owners[starts[i] : starts[i + 1]]`. `needed` is how many of its sequences make a text found, 0 for one that is not
    looked for. A text that is too short for a sequence is one itself; `short` are the lengths of these.
    Memory: about 40 bytes a character of evaluation text.
    """

    settings: Decontaminate
    openings: list[str]
    grams: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    needed: np.ndarray
    short: tuple[int, ...]
    found: Counter[int] = field(default_factory=Counter)
    _slots: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        bits = max(_FEWEST_SLOTS, _SLOTS_EACH * len(self.grams)).bit_length()
        slots = np.zeros(1 << bits, bool)
        slots[self.grams >> np.uint64(64 - bits)] = True
        object.__setattr__(self, "_slots", slots)

    @classmethod
    def of(cls, texts: Iterable[str], settings: Decontaminate | None = None) -> Contamination:
        """Gather the sequences of evaluation texts. Those of most texts are their template, and are not looked for."""
        settings = settings or Decontaminate()
        openings, hashes, short = list[str](), [_NO_HASHES], set[int]()
        for text in texts:
            openings.append(text[:_OPENING])
            of_lines = [_NO_HASHES]
            for line in letters(text.splitlines()):  # a question and its answers need not stand side by side
                characters = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), "<u4")
                size = settings.gram
                if len(characters) < size and np.isin(characters, _HAN).sum() >= settings.shortest:
                    short.add(size := len(characters))
                of_lines.append(gram_hashes(character_hashes().take(characters), size))
            hashes.append(np.unique(np.concatenate(of_lines)))
        sizes = np.array([len(h) for h in hashes[1:]], np.int64)
        every, owners = np.concatenate(hashes), np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(every, kind="stable")
        grams, starts, counts = np.unique(every[order], return_index=True, return_counts=True)
        own = counts <= max(10, settings.template * len(sizes))
        kept = np.repeat(own, counts)
        owners = owners[order][kept]
        starts = np.append(0, np.cumsum(counts[own]))
        needed = _needed(np.bincount(owners, minlength=len(sizes)), settings)
        return cls(settings, openings, grams[own], starts, owners, needed, tuple(sorted(short)))

    @property
    def not_looked_for(self) -> int:
        """Count the evaluation texts that are too short, or nothing but template."""
        return int((self.needed == 0).sum())

    def __call__(self, document: Document) -> Document | Drop:
        """Look up every sequence of the document."""
        texts = self.texts_in(document.text)
        if not texts:
            return document
        self.found.update(texts)
        return Drop("contaminated")

    def texts_in(self, text: str) -> list[int]:
        """Return the numbers of the evaluation texts that a text holds enough of, in order."""
        found = [self._places(hashes) for hashes in _hashes(text, self.settings.gram, self.short)]
        if not any(map(len, found)):
            return []
        places = np.unique(np.concatenate(found))
        owners = np.concatenate([self.owners[self.starts[place] : self.starts[place + 1]] for place in places.tolist()])
        numbers, counts = np.unique(owners, return_counts=True)
        return numbers[counts >= self.needed[numbers]].tolist()

    def _places(self, hashes: np.ndarray) -> np.ndarray:
        """Return the numbers of those hashes that are of an evaluation text."""
        some = hashes[self._slots.take((hashes >> np.uint64(65 - len(self._slots).bit_length())).view(np.int64))]
        if not len(some):
            return _NONE
        places = np.minimum(np.searchsorted(self.grams, some), len(self.grams) - 1)
        return places[self.grams[places] == some]


def _needed(totals: np.ndarray, settings: Decontaminate) -> np.ndarray:
    """Return how many of its `totals` sequences make each text found."""
    shares = np.ceil(settings.share * totals).astype(np.int64)
    return np.minimum(totals, np.maximum(np.minimum(shares, settings.enough), settings.fewest))


def _hashes(text: str, gram: int, short: Sequence[int]) -> Iterator[np.ndarray]:
    """Hash the sequences of a text's letters, digits and Han, and shorter ones that stand alone, a block at a time."""
    left = _END
    for number, codes in enumerate(code_points(text, BLOCK), 1):
        values = _table().take(codes)
        is_last = number * BLOCK >= len(text)
        some = np.concatenate([left, values[values != _BLANK], *([_END] if is_last else [])])
        places = np.flatnonzero(some)
        characters = some[places]
        yield gram_hashes(characters, gram)
        if short:
            yield _alone(some, places, short)
        if not is_last:
            left = some[places[-gram] :] if len(places) > gram else some
            left = left[(left != _SIGN) | (np.append(_BLANK, left[:-1]) != _SIGN)]  # of many signs the first


def _alone(some: np.ndarray, places: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Hash the sequences of these sizes between two signs; `places` are those of the characters in `some`."""
    around = np.concatenate([[_BLANK], some, [_BLANK]])  # what is not known yet parts nothing
    begins = np.flatnonzero(around[places] == _SIGN)
    ends = np.append(around[places + 2] == _SIGN, np.zeros(max(sizes), bool))
    which, size = np.nonzero(ends[np.add.outer(begins, np.array(sizes) - 1)])
    if not len(which):
        return np.zeros(0, np.uint64)
    return span_hashes(some[places], begins[which], np.array(sizes)[size])


@cache
def _table() -> np.ndarray:
    """Return the hash of each code point's half-width, lower-case form; `_SIGN` where it is neither letter nor digit.

    White space within a line is `_BLANK`, which is no character's hash: it is passed over.
    """
    table = np.where(folded() != 0, character_hashes().take(folded()), _SIGN)
    table[[first for first, _ in RANGES["space"] if chr(first) not in _LINE_ENDS]] = _BLANK
    return table
