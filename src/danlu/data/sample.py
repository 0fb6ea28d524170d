"""A fair part of a corpus that fits in memory, the same one every time."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from danlu.data.dedup import normalised_hash
from danlu.types import Document


def sample(documents: Iterable[Document], characters: int) -> list[str]:
    """Return texts of at most `characters` characters together, in their order; one text in any case.

    What stays is chosen by the hash of each text, whatever the order of the corpus. The largest hashes stay: those
    that `danlu prepare` holds out for validation have the smallest. Memory: `characters`, and two texts more.
    """
    held: list[tuple[int, int, str]] = []
    total = 0
    for number, document in enumerate(documents):
        heapq.heappush(held, (normalised_hash(document.text), number, document.text))
        total += len(document.text)
        while total - len(held[0][2]) >= characters:
            total -= len(heapq.heappop(held)[2])
    if total > characters and len(held) > 1:  # only now, or the order of the corpus would matter
        heapq.heappop(held)
    return [text for _, _, text in sorted(held, key=lambda entry: entry[1])]


def document_key(document: Document) -> int:
    """Return a 64-bit hash of a document's source, id and text."""
    return _key(document.source, document.id, document.text)


@lru_cache(maxsize=2)  # what is dropped or changed is asked for again
def _key(source: str, name: str, text: str) -> int:
    whole = "\0".join([source, name, text])
    digest = hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Smallest:
    """The entries with the smallest keys, `most` of them: a fair sample of all where the keys are hashes.

    What it holds depends on neither their order nor how a stream was cut into parts that are merged again. An entry is
    a tuple that begins with its key and goes on with strings and integers. Memory: twice `most` entries.
    """

    def __init__(self, most: int, entries: Iterable[Iterable[Any]] = ()):
        self.most = most
        self._limit = 1 << 64
        self._held: list[tuple[Any, ...]] = [tuple(entry) for entry in entries]
        self._cut()

    def wants(self, key: int) -> bool:
        """Tell whether an entry with this key would be held, as far as is known yet."""
        return key <= self._limit

    def add(self, key: int, *values: str | int) -> None:
        """Hold an entry, if its key is small enough."""
        if key <= self._limit:
            self._held.append((key, *values))
            if len(self._held) >= 2 * self.most:
                self._cut()

    def merge(self, other: Smallest) -> None:
        """Hold what both together hold."""
        self._held += other._held
        self._cut()

    def entries(self) -> list[tuple[Any, ...]]:
        """Return what is held, smallest key first."""
        self._cut()
        return list(self._held)

    def _cut(self) -> None:
        self._held.sort()
        del self._held[self.most :]
        if len(self._held) == self.most:
            self._limit = self._held[-1][0]
