"""What a corpus is, in one pass: counts, lengths, duplicates, kinds of characters, common openings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from danlu.data.dedup import ExactDedup
from danlu.types import Document, Drop

_OPENING = 12
_OPENINGS_HELD = 100_000
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_CLASSES = {
    "han": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"),
    "latin": re.compile("[A-Za-z\u00c0-\u024f\uff21-\uff3a\uff41-\uff5a]+"),
    "digit": re.compile("[0-9\uff10-\uff19]+"),
    "space": re.compile(r"\s+"),
}


@dataclass
class Stats:
    """Counts over a stream of documents.

    Memory: one entry for each different length, at most 100,000 openings, and `ExactDedup`'s 12 to 24 bytes
    for each different document. Counts of openings are exact until there are 100,000 different ones; then the
    rarer half is forgotten and starts anew, so counts of common ones may fall a little short.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    _dedup: ExactDedup = field(default_factory=ExactDedup)

    def add(self, documents: Iterable[Document]) -> None:
        """Count every document."""
        for document in documents:
            text = document.text
            self.lengths[len(text)] += 1
            self.duplicates += isinstance(self._dedup(document), Drop)
            for name, pattern in _CLASSES.items():
                self.classes[name] += sum(len(run) for run in pattern.findall(text))
            self._open(text[:_OPENING])

    def _open(self, opening: str) -> None:
        self.openings[opening] += 1
        if len(self.openings) > _OPENINGS_HELD:
            self.openings = Counter(dict(self.openings.most_common(_OPENINGS_HELD // 2)))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        documents = sum(self.lengths.values())
        characters = sum(length * count for length, count in self.lengths.items())
        shares = {name: self.classes[name] / max(1, characters) for name in _CLASSES}
        return {
            "documents": documents,
            "characters": characters,
            "mean_chars": characters / max(1, documents),
            "percentiles": self.percentiles(),
            "duplicates": {"count": self.duplicates, "share": self.duplicates / max(1, documents)},
            "character_classes": {**shares, "other": 1 - sum(shares.values()) if characters else 0.0},
            "common_openings": self.common_openings(),
            "histogram": self.histogram(),
        }

    def common_openings(self) -> list[dict[str, Any]]:
        """Return the ten most common first 12 characters that recur; boilerplate shows there."""
        common = [(opening, count) for opening, count in self.openings.most_common(10) if count > 1]
        # a lone surrogate, which JSON's \ud800 makes, cannot be printed
        return [{"opening": o.encode("utf-8", "replace").decode(), "count": n} for o, n in common]

    def percentiles(self) -> dict[str, int]:
        """Return exact percentiles of the documents' lengths in characters (nearest rank)."""
        ordered, total = sorted(self.lengths.items()), sum(self.lengths.values())
        found: dict[str, int] = {}
        for percent in _PERCENTILES:
            rank, seen = max(1, -(-percent * total // 100)), 0
            for length, count in ordered:
                seen += count
                if seen >= rank:
                    found[f"p{percent}"] = length
                    break
        return {"min": ordered[0][0], **found, "max": ordered[-1][0]} if ordered else {}

    def histogram(self) -> list[dict[str, int]]:
        """Count documents by length, in bins that double."""
        bins: Counter[int] = Counter()
        for length, count in self.lengths.items():
            bins[max(0, length - 1).bit_length()] += count
        span = range(min(bins), max(bins) + 1) if bins else ()
        return [{"up_to": 1 << b, "documents": bins[b]} for b in span]
