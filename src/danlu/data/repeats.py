"""Repeated passages: lines and sentences that many documents share are boilerplate, and are cut from all of them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import Field

from danlu import storage
from danlu.config import Table
from danlu.data.dedup import bare_hash
from danlu.types import Document, Drop

_SENTENCES = re.compile("[^。！？!?]*[。！？!?]+[”’」』）)】》\"']*|[^。！？!?]+")
_PARTS = 256
_BUFFERED = 1 << 22
_KEY, _COUNT = np.dtype("<u8"), np.dtype("<u4")


class Repeats(Table):
    """Which passages are cut, and from when on a document is not worth keeping."""

    passage: int = Field(default=20, ge=1, description="characters from which a line or sentence counts")
    more_than: int = Field(default=100, ge=1, description="documents that may hold a passage; it is cut from more")
    share: float = Field(default=0.5, ge=0, le=1, description="drop a document where more of it would be cut")


def line_hashes(text: str, passage: int) -> np.ndarray:
    """Hash a text's lines and sentences of `passage` characters or more: uint64, sorted, each once.

    White space does not count. A line of one sentence is one passage; of a line of several both it and they are.
    """
    if len(text) < passage:
        return np.zeros(0, np.uint64)
    found = {hashed for line in text.split("\n") for hashed in _hashes_in(line, passage)}
    return np.sort(np.fromiter(found, np.uint64, len(found)))


def _hashes_in(line: str, passage: int) -> Iterator[int]:
    if len(line) < passage:
        return
    for part in {line, *_SENTENCES.findall(line)}:
        if (hashed := _hash(part, passage)) is not None:
            yield hashed


def _hash(part: str, passage: int) -> int | None:
    """Return a passage's hash, None for one that is too short."""
    if len(part) < passage:
        return None
    bare = "".join(part.split())
    return bare_hash(bare) if len(bare) >= passage else None


class RepeatCounts:
    """In how many documents each hash was seen, exactly. Add each document's hashes once.

    Memory: 64 MB, and a 256th of the distinct hashes (12 bytes each) when asked. What is more lies sorted in one
    unnamed file in `folder` (the system's folder of temporary files by default), 12 bytes for each of every 4 million.
    """

    def __init__(self, folder: Path | None = None, buffered: int = _BUFFERED) -> None:
        self._folder = folder
        self._buffered = buffered
        self._held: list[np.ndarray] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._runs: list[_Run] = []

    def add(self, hashes: np.ndarray) -> None:
        """Count the hashes, uint64, of a document or of several. Raises OutputError where the disk is full."""
        self._held.append(hashes)
        self._size += len(hashes)
        if self._size >= self._buffered:
            self._spill()

    def repeated(self, more_than: int) -> np.ndarray:
        """Return the hashes seen more than `more_than` times, sorted."""
        if not self._runs:
            keys, counts = _counted(self._held)
            return keys[counts > more_than]
        self._spill()
        return np.concatenate([self._of_part(part, more_than) for part in range(_PARTS)])

    def _spill(self) -> None:
        """Write what is held, sorted and counted, behind the other runs."""
        keys, counts = _counted(self._held)
        self._held, self._size = [], 0
        with storage.clear_errors(self._folder or Path(tempfile.gettempdir())):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (lives as long as the counts)
            start = self._file.seek(0, 2)
            self._file.write(keys.astype(_KEY).tobytes())
            self._file.write(counts.astype(_COUNT).tobytes())
            self._file.flush()
        borders = np.arange(1, _PARTS, dtype=np.uint64) << np.uint64(56)
        places = [0, *np.searchsorted(keys, borders).tolist(), len(keys)]
        self._runs.append(_Run(start, places))

    def _of_part(self, part: int, more_than: int) -> np.ndarray:
        """Return the hashes seen more than `more_than` times among those whose first byte is `part`."""
        assert self._file is not None
        pairs = [run.read(self._file, part) for run in self._runs]
        keys, counts = _summed(np.concatenate([k for k, _ in pairs]), np.concatenate([c for _, c in pairs]))
        return keys[counts > more_than]


@dataclass(frozen=True)
class _Run:
    """Sorted keys, then their counts, from byte `start` of the file; `places` are where each part of them begins."""

    start: int
    places: list[int]

    def read(self, file: IO[bytes], part: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one part's keys and counts."""
        first, last = self.places[part], self.places[part + 1]
        counts_start = self.start + self.places[-1] * _KEY.itemsize
        keys = _read(file, self.start + first * _KEY.itemsize, last - first, _KEY)
        return keys, _read(file, counts_start + first * _COUNT.itemsize, last - first, _COUNT)


def _read(file: IO[bytes], start: int, count: int, kind: np.dtype) -> np.ndarray:
    file.seek(start)
    return np.frombuffer(file.read(count * kind.itemsize), kind)


def _counted(held: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct hashes, sorted, and how often each is there."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *held]), return_counts=True)


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct keys, sorted, and the sums of their counts, int64."""
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order].astype(np.int64)
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    return keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts


@dataclass(frozen=True, eq=False)
class CutRepeats:
    """Cut lines and sentences whose hashes are among `repeated`, sorted; drop a text more than `share` of which goes.

    Every occurrence goes, the first one too: what is cut from a document then depends on it and on the list alone,
    not on the order of the corpus or on how it was cut into parts; and a sentence that stands in hundreds of documents
    says nothing about the one that happened to come first.
    """

    repeated: np.ndarray
    passage: int
    share: float

    def __call__(self, document: Document) -> Document | Drop:
        """Cut, or drop."""
        text = document.text
        found = self._found(text)
        if not found:
            return document
        kept = "\n".join(line for line in self._lines(text, found) if line is not None).strip()
        if not kept or len(text) - len(kept) > self.share * len(text):
            return Drop("repeated_passages")
        return replace(document, text=kept)

    def passages(self, text: str) -> list[str]:
        """Return what of a text is cut, lines and sentences."""
        found = self._found(text)
        lines = text.split("\n") if found else []
        parts = [[line] if _hash(line, self.passage) in found else _SENTENCES.findall(line) for line in lines]
        return [part for line in parts for part in line if _hash(part, self.passage) in found]

    def _found(self, text: str) -> set[int]:
        """Return the hashes of a text that are to be cut."""
        hashes = line_hashes(text, self.passage)
        if not len(self.repeated) or not len(hashes):
            return set()
        places = np.minimum(np.searchsorted(self.repeated, hashes), len(self.repeated) - 1)
        return set(hashes[self.repeated[places] == hashes].tolist())

    def _lines(self, text: str, found: set[int]) -> Iterator[str | None]:
        """Yield what is left of each line, None for a line of which nothing is."""
        for line in text.split("\n"):
            if found.isdisjoint(_hashes_in(line, self.passage)):
                yield line
            elif _hash(line, self.passage) in found:
                yield None
            else:
                left = (part for part in _SENTENCES.findall(line) if _hash(part, self.passage) not in found)
                yield "".join(left) or None
