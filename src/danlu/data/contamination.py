"""Contamination: documents that hold a good part of an evaluation text are dropped, and counted by text.

GPT-3 (Brown et al. 2020, appendix C) looks for sequences of 13 words. Chinese does not part its words; 13 characters
are some eight of them, and one such sequence in common proves nothing: 中华人民共和国国务院办公厅 is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from pydantic import Field

from danlu.config import Table
from danlu.data.characters import code_points
from danlu.data.grams import BLOCK, character_hashes, folded, gram_hashes
from danlu.types import Document, Drop

_SLOTS_EACH = 16
_FEWEST_SLOTS = 1 << 12
_OPENING = 60
_NONE = np.zeros(0, np.int64)


class Decontaminate(Table):
    """When a document holds an evaluation text: enough of the text's sequences of `gram` characters stand in it.

    Enough are `share` of them or `enough`, whichever are fewer, but not fewer than `fewest`, or all that the text has.
    Only letters, digits and Han count as characters.
    """

    gram: int = Field(default=13, ge=1, description="characters of the sequences looked for; shorter texts are not")
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
    looked for. Memory: about 40 bytes a character of evaluation text.
    """

    settings: Decontaminate
    openings: list[str]
    grams: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    needed: np.ndarray
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
        openings, hashes = list[str](), [np.zeros(0, np.uint64)]
        for text in texts:
            openings.append(text[:_OPENING])
            hashes.append(np.unique(np.concatenate([hashes[0], *_hashes(text, settings.gram)])))
        sizes = np.array([len(h) for h in hashes[1:]], np.int64)
        every, owners = np.concatenate(hashes), np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(every, kind="stable")
        grams, starts, counts = np.unique(every[order], return_index=True, return_counts=True)
        own = counts <= max(10, settings.template * len(sizes))
        kept = np.repeat(own, counts)
        owners = owners[order][kept]
        starts = np.append(0, np.cumsum(counts[own]))
        needed = _needed(np.bincount(owners, minlength=len(sizes)), settings)
        return cls(settings, openings, grams[own], starts, owners, needed)

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
        found = [self._places(hashes) for hashes in _hashes(text, self.settings.gram)]
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


def _hashes(text: str, gram: int) -> Iterator[np.ndarray]:
    """Hash the sequences of a text's letters, digits and Han, a block at a time."""
    left = np.zeros(0, np.uint64)
    for codes in code_points(text, BLOCK):
        characters = _table().take(codes)
        characters = np.concatenate([left, characters[characters != 0]])
        yield gram_hashes(characters, gram)
        left = characters[max(0, len(characters) - gram + 1) :]


@cache
def _table() -> np.ndarray:
    """Return the hash of each code point's half-width, lower-case form; 0 where it is neither letter nor digit."""
    return np.where(folded() != 0, character_hashes().take(folded()), np.uint64(0))
