"""Exact deduplication by hash, in a few bytes a document."""

from __future__ import annotations

import hashlib

import numpy as np

from danlu.types import Document, Drop

_FIRST_SLOTS = 1 << 16


def normalised_hash(text: str) -> int:
    """Return a 64-bit hash of a text without its white space: copies that differ in spacing have the same."""
    return bare_hash("".join(text.split()))


def bare_hash(text: str) -> int:
    """Return the hash of a text that has no white space."""
    characters = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(characters, digest_size=8).digest(), "little")


class ExactDedup:
    """A cleaning rule that drops every later copy of a document.

    Hashes lie in an open table that doubles when two thirds full: 12 to 24 bytes for each different document,
    about 2.4 GB for 100 million. Some two of n different documents share a 64-bit hash, so that one is lost,
    with probability n²/2⁶⁵: 3·10⁻⁸ for a million, 3·10⁻⁴ for 100 million.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(_FIRST_SLOTS, dtype=np.uint64)
        self._count = 0

    @property
    def bytes(self) -> int:
        """Size of the table."""
        return self._slots.nbytes

    def __call__(self, document: Document) -> Document | Drop:
        """Keep the first of its kind."""
        return document if self.is_new(document.text) else Drop("duplicate")

    def is_new(self, text: str) -> bool:
        """Tell whether no copy of a text came before, and remember it."""
        value = normalised_hash(text) or 1  # 0 marks a free slot
        if 3 * self._count >= 2 * len(self._slots):
            self._grow()
        return self._insert(value)

    def _insert(self, value: int) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        place = (value * 0x9E3779B97F4A7C15 >> 20) & mask
        while (found := slots.item(place)) != 0:
            if found == value:
                return False
            place = (place + 1) & mask
        slots[place] = value
        self._count += 1
        return True

    def _grow(self) -> None:
        old = self._slots[self._slots != 0]
        self._slots, self._count = np.zeros(2 * len(self._slots), dtype=np.uint64), 0
        for start in range(0, len(old), _FIRST_SLOTS):  # a list of all of them would weigh more than the table
            for value in old[start : start + _FIRST_SLOTS].tolist():
                self._insert(value)
