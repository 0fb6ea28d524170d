"""What a corpus is, in one pass: counts, lengths, duplicates, kinds of characters, common openings."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danlu.data.characters import RANGES
from danlu.data.dedup import ExactDedup
from danlu.types import Document

_OPENING = 12
_OPENINGS_HELD = 100_000
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_NAMES = ("other", *RANGES)


def _class_table() -> np.ndarray:
    """Return, for each code point, the index of its class in `_NAMES`, uint8."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    for index, ranges in enumerate(RANGES.values(), 1):
        for first, last in ranges:
            table[first : last + 1] = index
    return table


def percentiles(values: Counter[int]) -> dict[str, int]:
    """Return exact percentiles (nearest rank) of counted values."""
    ordered, total = sorted(values.items()), values.total()
    found: dict[str, int] = {}
    for percent in _PERCENTILES:
        rank, seen = max(1, -(-percent * total // 100)), 0
        for value, count in ordered:
            seen += count
            if seen >= rank:
                found[f"p{percent}"] = value
                break
    return {"min": ordered[0][0], **found, "max": ordered[-1][0]} if ordered else {}


def histogram(lengths: Counter[int]) -> list[dict[str, int]]:
    """Count documents by length, in bins that double."""
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[max(0, length - 1).bit_length()] += count
    span = range(min(bins), max(bins) + 1) if bins else ()
    return [{"up_to": 1 << b, "documents": bins[b]} for b in span]


def part(count: int, total: int) -> dict[str, Any]:
    """Return a count and its share of a total."""
    return {"count": count, "share": count / max(1, total)}


def opening(text: str) -> str:
    """Return the first 12 characters of a text."""
    return text[:_OPENING]


class Openings:
    """Counts the first 12 characters of texts; boilerplate shows there.

    Counts are exact until there are 100,000 different ones; then the rarer half is forgotten and starts anew, so
    counts of common ones may fall a little short.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, text: str) -> None:
        """Count a text's opening."""
        self._counts[opening(text)] += 1
        if len(self._counts) > _OPENINGS_HELD:
            self._counts = Counter(dict(self._counts.most_common(_OPENINGS_HELD // 2)))

    def common(self) -> list[dict[str, Any]]:
        """Return the ten most common ones that recur."""
        common = [(opening, count) for opening, count in self._counts.most_common(10) if count > 1]
        # a lone surrogate, which JSON's \ud800 makes, cannot be printed
        return [{"opening": o.encode("utf-8", "replace").decode(), "count": n} for o, n in common]


@dataclass
class Stats:
    """Counts over a stream of documents.

    Memory: one entry for each different length, at most 100,000 openings, and `ExactDedup`'s 12 to 24 bytes
    for each different document.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    openings: Openings = field(default_factory=Openings)
    duplicates: int = 0
    _dedup: ExactDedup = field(default_factory=ExactDedup)
    _table: np.ndarray = field(default_factory=_class_table)
    _classes: np.ndarray = field(default_factory=lambda: np.zeros(len(_NAMES), dtype=np.int64))

    def add(self, documents: Iterable[Document]) -> None:
        """Count every document."""
        for document in documents:
            text = document.text
            self.lengths[len(text)] += 1
            self.duplicates += not self._dedup.is_new(text)
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            self._classes += np.bincount(self._table[codes], minlength=len(_NAMES))
            self.openings.add(text)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        documents = sum(self.lengths.values())
        characters = sum(length * count for length, count in self.lengths.items())
        return {
            "documents": documents,
            "characters": characters,
            "mean_chars": characters / max(1, documents),
            "percentiles": percentiles(self.lengths),
            "duplicates": part(self.duplicates, documents),
            "character_classes": self.character_classes(),
            "common_openings": self.openings.common(),
            "histogram": histogram(self.lengths),
        }

    def character_classes(self) -> dict[str, float]:
        """Return the share of each kind of character; they add up to 1."""
        counts = dict(zip(_NAMES, self._classes.tolist(), strict=True))
        return {name: counts[name] / max(1, sum(counts.values())) for name in (*RANGES, "other")}
