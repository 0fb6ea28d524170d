"""A fair part of a corpus that fits in memory, the same one every time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

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
