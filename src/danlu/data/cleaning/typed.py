"""Columns of .parquet sources, whose types stay on the way to .parquet: they lie beside a part's lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from danlu import storage
from danlu.data.cleaning.columns import arrow, columns, read_schema
from danlu.data.cleaning.work import Work
from danlu.data.rules.privacy import MASKED
from danlu.data.sources import Corpus
from danlu.errors import DataError
from danlu.types import Document

COLUMNS = "columns"
_ROWS = 256


def note_schema(work: Work, corpus: Corpus) -> None:
    """Leave in the work folder the schema of the sources, if all of them are .parquet.

    Raises DataError where two of them hold columns of one name whose types have none in common.
    """
    if not work.columns.is_file():
        schema = source_schema(corpus)
        if schema is not None:
            with storage.replacing(work.columns) as scratch:
                scratch.write_bytes(schema.serialize().to_pybytes())


def source_schema(corpus: Corpus) -> Any:
    """Return the schema of the columns of all sources, None where not all are .parquet.

    A column that some have not may be null. `masked`, which a rule writes, is not among them.
    """
    pa = arrow()
    fields: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    all_have: set[str] | None = None
    for path, schema in corpus.schemas():
        all_have = set(schema.names) if all_have is None else all_have & set(schema.names)
        for field in schema:
            new = pa.field(field.name, _storage_of(field.type), field.nullable)
            known = fields.setdefault(field.name, new)
            fields[field.name] = _joined(known, new, origin.setdefault(field.name, path), path)
    if all_have is None:
        return None
    fields.pop(MASKED, None)
    return pa.schema([f.with_nullable(f.nullable or f.name not in all_have) for f in fields.values()])


def _storage_of(kind: Any) -> Any:
    """Return the type that an extension type is stored as; any other as it is."""
    return kind.storage_type if isinstance(kind, arrow().BaseExtensionType) else kind


def _joined(known: Any, new: Any, first: Path, path: Path) -> Any:
    """Return the field that holds both; of two types the one that has room for both."""
    pa = arrow()
    if known.type == new.type:
        return known.with_nullable(known.nullable or new.nullable)
    both = [pa.schema([pa.field(f.name, _words_of(f.type), f.nullable)]) for f in (known, new)]
    try:
        return pa.unify_schemas(both, promote_options="permissive").field(0)
    except pa.ArrowException:
        raise DataError(
            f"--format parquet: column {new.name!r} is {known.type} in {first} and {new.type} in {path}. "
            "Write --format jsonl.zst, or clean them apart"
        ) from None


def _words_of(kind: Any) -> Any:
    """Return the type of the values of a dictionary; any other as it is."""
    return kind.value_type if arrow().types.is_dictionary(kind) else kind


@lru_cache(maxsize=1)
def noted_schema(work: Work) -> Any:
    """Return the schema that `note_schema` left, or None."""
    return read_schema(work.columns) if work.columns.is_file() else None


def set_aside(documents: Sequence[Document], schema: Any, text_key: str, path: Path) -> list[Document]:
    """Write the fields that a schema names to a file, and return the documents without them."""
    pa = arrow()
    others = pa.schema([field for field in schema if field.name != text_key])
    batch = pa.record_batch(columns([document.meta for document in documents], others), schema=others)
    with pa.ipc.new_file(str(path), others, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_batch(batch)
    names = set(others.names)
    return [replace(d, meta={k: v for k, v in d.meta.items() if k not in names}) for d in documents]


def put_back(documents: Iterable[Document], path: Path, start: int, stop: int) -> Iterator[Document]:
    """Yield documents `start` … `stop` - 1 of a part with the fields that `set_aside` wrote."""
    with arrow().OSFile(str(path)) as file:
        table = arrow().ipc.open_file(file).read_all().slice(start, stop - start)
    rows = (row for batch in table.to_batches(max_chunksize=_ROWS) for row in batch.to_pylist())
    for document, row in zip(documents, rows, strict=True):
        yield replace(document, meta={**row, **document.meta})
