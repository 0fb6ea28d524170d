"""What a stream of documents is: how many, how long, of which characters, in which language, from where; a sample."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from danlu.data.characters import Kind, kinds, kinds_of_each, visible
from danlu.data.sample import Smallest, document_key
from danlu.data.stats import opening
from danlu.types import Document

LANGUAGES = ("Chinese", "Chinese and Latin", "Latin script", "another script", "no letters")
SAMPLED = 200
"""Documents of the random sample."""
OPENINGS = 10_000
"""Documents whose openings are counted: a share p of all is known to ± √(p(1-p)/10,000), 1 % to ± 0.1 %."""
SHOWN_CHARACTERS = 1_500
"""How much of a document is kept to be shown."""

_BATCH = 1 << 16  # characters
_HAN = [Kind.HAN, Kind.FUNCTION, Kind.GARBLED]
_LATIN = [Kind.LATIN, Kind.WIDE, Kind.UPPER_LATIN]


class Profile:
    """Figures of a stream of documents, the same however it is cut into parts that are merged.

    `lengths` counts documents by length, `kinds` characters by `Kind`; `languages` (int64 [languages, 2]) and `sources`
    hold documents and characters; `sample` has (key, source, id, characters, text), `openings` (key, opening).

    Memory: an entry for each source and each different length (at most √(2·characters) of these), 200 texts of 1,500
    characters, 10,000 openings.
    """

    def __init__(self) -> None:
        self.sources: dict[str, list[int]] = {}
        self.lengths: Counter[int] = Counter()
        self.kinds = np.zeros(len(Kind), dtype=np.int64)
        self.languages = np.zeros((len(LANGUAGES), 2), dtype=np.int64)
        self.sample, self.openings = Smallest(SAMPLED), Smallest(OPENINGS)
        self._waiting: list[str] = []
        self._characters_waiting = 0

    @property
    def documents(self) -> int:
        """Count the documents."""
        return sum(documents for documents, _ in self.sources.values())

    @property
    def characters(self) -> int:
        """Count their characters."""
        return sum(characters for _, characters in self.sources.values())

    def add(self, document: Document) -> None:
        """Count a document."""
        text, length = document.text, len(document.text)
        counts = self.sources.setdefault(visible(document.source), [0, 0])
        counts[0] += 1
        counts[1] += length
        self.lengths[length] += 1
        key = document_key(document)
        if self.openings.wants(key):
            self.openings.add(key, visible(opening(text)))
        if self.sample.wants(key):
            self.sample.add(key, *shown(document))
        self._waiting.append(text)
        self._characters_waiting += length
        if self._characters_waiting > _BATCH:
            self.settle()

    def settle(self) -> None:
        """Count the characters of the texts that wait for it: many at once cost a fraction of one by one."""
        texts, self._waiting, self._characters_waiting = self._waiting, [], 0
        if not texts:
            return
        short = [text for text in texts if len(text) <= _BATCH]
        long = [kinds(text) for text in texts if len(text) > _BATCH]
        counts = np.concatenate([kinds_of_each(short), np.array(long, dtype=np.int64).reshape(-1, len(Kind))])
        self.kinds += counts.sum(axis=0)
        found = languages_of(counts)
        self.languages[:, 0] += np.bincount(found, minlength=len(LANGUAGES))
        self.languages[:, 1] += np.bincount(found, counts.sum(axis=1), minlength=len(LANGUAGES)).astype(np.int64)

    def merge(self, other: Profile) -> None:
        """Count what another one counted."""
        self.settle()
        other.settle()
        for source, (documents, characters) in other.sources.items():
            counts = self.sources.setdefault(source, [0, 0])
            counts[0] += documents
            counts[1] += characters
        self.lengths += other.lengths
        self.kinds += other.kinds
        self.languages += other.languages
        self.sample.merge(other.sample)
        self.openings.merge(other.openings)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; `from_dict` makes the profile of them again."""
        self.settle()
        return {
            "sources": {source: self.sources[source] for source in sorted(self.sources)},
            "lengths": [[length, self.lengths[length]] for length in sorted(self.lengths)],
            "kinds": self.kinds.tolist(),
            "languages": self.languages.tolist(),
            "sample": [list(entry) for entry in self.sample.entries()],
            "openings": [list(entry) for entry in self.openings.entries()],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Profile:
        """Make a profile of what `as_dict` returned."""
        profile = cls()
        profile.sources = {source: list(counts) for source, counts in value["sources"].items()}
        profile.lengths = Counter(dict(value["lengths"]))
        profile.kinds += np.array(value["kinds"], dtype=np.int64)
        profile.languages += np.array(value["languages"], dtype=np.int64)
        profile.sample, profile.openings = Smallest(SAMPLED, value["sample"]), Smallest(OPENINGS, value["openings"])
        return profile


def shown(document: Document) -> tuple[str, str, int, str]:
    """Return a document's source and id, its length, and as much of its text as is shown."""
    source, name, text = document.source, document.id, document.text
    return visible(source), visible(name), len(text), visible(text[:SHOWN_CHARACTERS])


def languages_of(counts: np.ndarray) -> np.ndarray:
    """Return, of characters counted by `Kind` (int64 [texts, kinds]), each text's index in `LANGUAGES`, int64.

    By the letters alone: a tenth of a third script makes "another script" (Japanese shows by its kana, Korean by its
    hangul); of the rest Han letters make Chinese from 0.7 on, Chinese and Latin from 0.1 on.
    """
    han, latin, other = counts[:, _HAN].sum(axis=1), counts[:, _LATIN].sum(axis=1), counts[:, Kind.LETTER]
    letters = han + latin + other
    tests = [letters == 0, 10 * other > letters, 10 * han >= 7 * letters, 10 * han >= letters]
    return np.select(tests, [4, 3, 0, 1], default=2)
