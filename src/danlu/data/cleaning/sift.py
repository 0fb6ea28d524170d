"""The first step: the recipe's rules over one part, and what it takes to find copies of what they keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from danlu import storage
from danlu.data.clean import Rule
from danlu.data.cleaning.good import learnt
from danlu.data.cleaning.ledger import Ledger
from danlu.data.cleaning.records import line_of, record_of, write_documents
from danlu.data.cleaning.work import Work, write_array
from danlu.data.contamination import Contamination
from danlu.data.dedup import normalised_hash
from danlu.data.near import signatures
from danlu.data.repeats import line_hashes
from danlu.data.rules.recipes import recipe
from danlu.types import Document

PART_CHARACTERS, FIRST_CHARACTERS = 1 << 22, 1 << 17
"""Of a part at most, and of the first ones."""
_OF_ALL_BEFORE = 4
DOCUMENTS, LEDGER, SCHEMA = "documents.jsonl.zst", "ledger.json", "schema"


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive documents of a corpus; the first part has number 0."""

    number: int
    documents: tuple[Document, ...]


def cut(documents: Iterable[Document], characters: int = PART_CHARACTERS) -> Iterator[Part]:
    """Cut a corpus into parts of up to so many characters and one document.

    The first ones have 131,072, later ones a quarter of all before them: so there are several where there is little,
    few where there is much, and soon one that is finished.
    """
    held: list[Document] = []
    number = before = total = 0
    for document in documents:
        held.append(document)
        total += len(document.text)
        if total >= min(characters, max(FIRST_CHARACTERS, before // _OF_ALL_BEFORE)):
            yield Part(number, tuple(held))
            held, before, total, number = [], before + total, 0, number + 1
    if held:
        yield Part(number, tuple(held))


@dataclass(frozen=True, slots=True)
class Sift:
    """Passes a part through the recipe and leaves in the work folder what it keeps.

    Of each document kept: `documents` (JSON lines, packed), `hashes` (uint64, of the normalised text), `characters`
    (uint32), `signatures` (uint32, one row each, with `near`), `lines` (uint64, hashes of its passages, with `repeats`)
    and `line_counts` (uint32, how many of those are its). `ledger.json` has what became of the others.
    """

    work: Work

    def __call__(self, part: Part) -> int:
        """Sift a part; return its number. Raises OutputError where the disk is full; nothing of it is there then."""
        final = self.work.part("sifted", part.number)
        if final.is_dir():
            return part.number  # done by a worker that was killed before it could say so
        rules, contamination = rules_of(self.work)
        ledger = Ledger.new(self.work.settings.report)
        kept: list[Document] = []
        for document in part.documents:
            ledger.come(document)
            answer = ledger.pass_through(document, rules)
            if answer is not None:
                kept.append(answer)
        if contamination is not None:
            ledger.contaminate(contamination)
        with storage.new_folder(final) as folder:
            if self.work.settings.format == "parquet":
                kept = self._write_columns(folder, kept)
            write_documents(folder / DOCUMENTS, kept)
            self._write_arrays(folder, [document.text for document in kept])
            ledger.write(folder / LEDGER)
        return part.number

    def _write_arrays(self, folder: Path, texts: list[str]) -> None:
        hashes = np.fromiter(map(normalised_hash, texts), np.uint64, len(texts))
        write_array(folder / "hashes", hashes)
        write_array(folder / "characters", np.fromiter(map(len, texts), np.uint32, len(texts)))
        if self.work.settings.near is not None:
            write_array(folder / "signatures", signatures(texts, self.work.settings.near))
        if self.work.settings.repeats is not None:
            lines = [line_hashes(text, self.work.settings.repeats.passage) for text in texts]
            write_array(folder / "lines", np.concatenate([np.zeros(0, np.uint64), *lines]))
            write_array(folder / "line_counts", np.fromiter(map(len, lines), np.uint32, len(lines)))

    def _write_columns(self, folder: Path, kept: list[Document]) -> list[Document]:
        """Write the columns whose types the sources tell, and the schema of the other fields; return those."""
        from danlu.data.cleaning.columns import schema_of
        from danlu.data.cleaning.typed import COLUMNS, noted_schema, set_aside

        text_key, schema = self.work.settings.text_key, noted_schema(self.work)
        if schema is not None:
            kept = set_aside(kept, schema, text_key, folder / COLUMNS)
        records = [json.loads(line_of(record_of(document, text_key))) for document in kept]
        (folder / SCHEMA).write_bytes(schema_of(records).serialize().to_pybytes())
        return kept


@lru_cache(maxsize=1)
def rules_of(work: Work) -> tuple[list[Rule], Contamination | None]:
    """Return the rules of a run, and the last of them where there are evaluation texts; made once in each process."""
    settings = work.settings
    rules = recipe(settings.recipe, settings.rules, learnt(work.good))
    if not work.against.is_file():
        return rules, None
    texts = json.loads(work.against.read_text(encoding="utf-8"))
    contamination = Contamination.of(texts, settings.decontaminate)
    return [*rules, contamination], contamination
