"""The second step: what only all parts together tell, namely copies, near-duplicates and passages said again and again.

Documents are numbered over all parts in the order of the corpus, and of several alike the first one stays; so nothing
here depends on where the parts were cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from danlu import storage
from danlu.data.cleaning.ledger import Ledger
from danlu.data.cleaning.sift import LEDGER, SCHEMA
from danlu.data.cleaning.work import Work, append, map_array, read_array, write_array
from danlu.data.near import Near, near_duplicates
from danlu.data.repeats import RepeatCounts

STAYS, COPY, NEAR_COPY = 0, 1, 2
"""Verdicts on a document, uint8."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What the step found, read from its folder.

    `verdicts` uint8 [documents]; `firsts` int64 [documents], the first document of each one's cluster; `repeated`
    uint64, sorted, hashes of passages to cut; `starts` int64 [parts + 1], numbers of the parts' first documents;
    `files` int64 [files + 1], numbers of the first documents of the files to write; `shown` has the first documents of
    the clusters that a report shows.
    """

    verdicts: np.ndarray
    firsts: np.ndarray
    repeated: np.ndarray
    starts: np.ndarray
    files: np.ndarray
    shown: frozenset[int]

    @classmethod
    def read(cls, folder: Path) -> Compared:
        """Open a folder of the step; arrays are mapped and not read."""
        return cls(
            map_array(folder / "verdicts", "|u1"),
            map_array(folder / "firsts", "<i8"),
            map_array(folder / "repeated", "<u8"),
            map_array(folder / "starts", "<i8"),
            map_array(folder / "files", "<i8"),
            frozenset(json.loads((folder / "shown").read_text())),
        )


def compare(work: Work, parts: int) -> None:
    """Compare the documents of all parts and leave in the work folder which ones go.

    Memory: some 40 bytes a document, and what `near_duplicates` and `RepeatCounts` take.
    Raises OutputError where the disk is full.
    """
    settings = work.settings
    folders = [work.part("sifted", number) for number in range(parts)]
    hashes = [read_array(folder / "hashes", "<u8") for folder in folders]
    starts = np.cumsum([0, *map(len, hashes)])
    verdicts = _copies(np.concatenate(hashes))
    firsts = np.arange(len(verdicts))
    ledger = Ledger.new(settings.report)
    with storage.new_folder(work.compared) as folder:
        if settings.near is not None:
            _compare_nearly(folder, folders, settings.near, verdicts, firsts)
        shown: dict[int, int] = {}
        if ledger.survey is not None:
            shown = ledger.survey.clusters(firsts)
        stays = verdicts == STAYS
        repeated = np.zeros(0, dtype=np.uint64)
        if settings.repeats is not None:
            repeated = _repeated(folder, folders, starts, stays, settings.repeats.more_than)
        characters = np.concatenate([read_array(part / "characters", "<u4") for part in folders])
        write_array(folder / "verdicts", verdicts)
        write_array(folder / "firsts", firsts)
        write_array(folder / "repeated", repeated)
        write_array(folder / "starts", starts)
        write_array(folder / "files", file_starts(characters * stays, settings.file_characters))
        storage.write_json(folder / "shown", list(shown))
        if settings.format == "parquet":
            _unify(work, folder, folders)
        ledger.write(folder / LEDGER)


def _copies(hashes: np.ndarray) -> np.ndarray:
    """Return verdicts: every later document with a hash is a copy of the first."""
    verdicts = np.full(len(hashes), COPY, dtype=np.uint8)
    verdicts[np.unique(hashes, return_index=True)[1]] = STAYS
    return verdicts


def _compare_nearly(
    folder: Path, folders: Sequence[Path], near: Near, verdicts: np.ndarray, firsts: np.ndarray
) -> None:
    """Find near-duplicates among the documents that stay; note them in `verdicts` and `firsts`."""
    stays = np.flatnonzero(verdicts == STAYS)
    gathered, start = folder / "signatures", 0
    with gathered.open("wb") as file:
        for part in folders:
            count = (part / "hashes").stat().st_size // 8
            chosen = verdicts[start : start + count] == STAYS
            append(file, read_array(part / "signatures", "<u4").reshape(count, near.hashes)[chosen])
            start += count
    rows = map_array(gathered, "<u4").reshape(len(stays), near.hashes)
    found = near_duplicates(rows, near)
    del rows
    gathered.unlink()
    firsts[stays] = stays[found]
    verdicts[stays[found != np.arange(len(stays))]] = NEAR_COPY


def _repeated(
    scratch: Path, folders: Sequence[Path], starts: np.ndarray, stays: np.ndarray, more_than: int
) -> np.ndarray:
    """Return the hashes of passages that more than so many of the documents that stay hold."""
    counts = RepeatCounts(scratch)
    for folder, start, stop in zip(folders, starts, starts[1:], strict=False):
        chosen = np.repeat(stays[start:stop], read_array(folder / "line_counts", "<u4"))
        counts.add(read_array(folder / "lines", "<u8")[chosen])
    return counts.repeated(more_than)


def file_starts(characters: np.ndarray, most: int) -> np.ndarray:
    """Return where files begin, and the end: a file holds at most `most` characters, or one document.

    `characters` are those of each document, 0 of one that goes.
    """
    ends = np.cumsum(characters, dtype=np.int64)
    starts = [0]
    while starts[-1] < len(ends):
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        starts.append(max(starts[-1] + 1, int(np.searchsorted(ends, before + most, side="right"))))
    return np.array(starts)


def _unify(work: Work, folder: Path, folders: Sequence[Path]) -> None:
    from danlu.data.cleaning.columns import read_schema, whole_schema
    from danlu.data.cleaning.typed import noted_schema

    schemas = [read_schema(part / SCHEMA) for part in folders]
    (folder / SCHEMA).write_bytes(whole_schema(noted_schema(work), schemas).serialize().to_pybytes())
