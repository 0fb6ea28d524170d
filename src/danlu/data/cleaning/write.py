"""The third step: of the documents kept so far, drop what the comparison named, cut passages, write a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from danlu import storage
from danlu.data.cleaning.compare import COPY, NEAR_COPY, STAYS, Compared
from danlu.data.cleaning.ledger import Ledger
from danlu.data.cleaning.records import read_documents, record_of, records_file
from danlu.data.cleaning.sift import DOCUMENTS, LEDGER, SCHEMA
from danlu.data.cleaning.work import Work, read_array
from danlu.data.repeats import CutRepeats, Repeats
from danlu.types import Document

_GOES = {COPY: ("duplicate", "exact_dedup"), NEAR_COPY: ("near_duplicate", "near")}
"""Reason and rule of each verdict but `STAYS`."""


@dataclass(frozen=True, slots=True)
class Write:
    """Writes a file of the output into the work folder, and with it the ledger of the documents it is made of."""

    work: Work

    def __call__(self, number: int) -> None:
        """Write file `number`. Raises OutputError where the disk is full; nothing of the file is there then."""
        final = self.work.part("written", number)
        if final.is_dir():
            return  # done by a worker that was killed before it could say so
        found = compared(self.work)[0]
        ledger = Ledger.new(self.work.settings.report)
        first, end = int(found.files[number]), int(found.files[number + 1])
        verdicts, clusters = found.verdicts[first:end].tolist(), found.firsts[first:end].tolist()
        with storage.new_folder(final) as folder:
            with records_file(folder / self.name, self.work.settings.format, self._schema()) as write:
                documents = self._documents(found, first, end)
                for (document, repeats), verdict, cluster in zip(documents, verdicts, clusters, strict=True):
                    if ledger.survey is not None and cluster in found.shown:
                        ledger.survey.member(cluster, document, stayed=verdict == STAYS)
                    answer = self._judge(document, verdict, repeats, ledger)
                    if answer is not None:
                        write(record_of(answer, self.work.settings.text_key))
            ledger.write(folder / LEDGER)

    def _judge(self, document: Document, verdict: int, repeats: bool, ledger: Ledger) -> Document | None:
        """Return what is left of a document, which `repeats` passages that go or does not, and note it."""
        if verdict != STAYS:
            ledger.drop(document, *_GOES[verdict])
            return None
        if repeats:
            cut = compared(self.work)[1]
            if ledger.survey is not None:
                ledger.survey.repeats(document, cut.passages(document.text))
            answer = ledger.pass_through(document, [cut])
            if answer is None:
                return None
            document = answer
        ledger.keep(document)
        return document

    @property
    def name(self) -> str:
        """Return the file's name in its folder."""
        return f"part.{self.work.settings.format}"

    def _documents(self, found: Compared, first: int, end: int) -> Iterator[tuple[Document, bool]]:
        """Yield documents `first` … `end` - 1 of the corpus, and whether they hold passages that are repeated."""
        part = int(np.searchsorted(found.starts, first, side="right")) - 1
        while first < end:
            begin, after = int(found.starts[part]), int(found.starts[part + 1])
            folder, start, stop = self.work.part("sifted", part), first - begin, min(end, after) - begin
            holding = self._holding(folder, found.repeated, after - begin)[start:stop].tolist()
            yield from zip(self._of_part(folder, start, stop), holding, strict=True)
            first, part = after, part + 1

    def _holding(self, folder: Path, repeated: np.ndarray, documents: int) -> np.ndarray:
        """Tell of each document of a part, by the hashes that sifting left, if it holds a repeated passage: bool."""
        if not len(repeated):
            return np.zeros(documents, bool)
        lines, counts = read_array(folder / "lines", "<u8"), read_array(folder / "line_counts", "<u4")
        places = np.minimum(np.searchsorted(repeated, lines), len(repeated) - 1)
        owners = np.repeat(np.arange(documents), counts)
        return np.bincount(owners[repeated[places] == lines], minlength=documents) > 0

    def _of_part(self, folder: Path, start: int, stop: int) -> Iterator[Document]:
        documents = read_documents(folder / DOCUMENTS, start, stop)
        if not self.work.columns.is_file():
            return documents
        from danlu.data.cleaning.typed import COLUMNS, put_back

        return put_back(documents, folder / COLUMNS, start, stop)

    def _schema(self) -> Any:
        if self.work.settings.format != "parquet":
            return None
        from danlu.data.cleaning.columns import read_schema

        return read_schema(self.work.compared / SCHEMA)


@lru_cache(maxsize=1)
def compared(work: Work) -> tuple[Compared, CutRepeats]:
    """Return what the comparison found, and the rule that follows from it; opened once in each process."""
    found, asked = Compared.read(work.compared), work.settings.repeats or Repeats()
    return found, CutRepeats(found.repeated, asked.passage, asked.share)
