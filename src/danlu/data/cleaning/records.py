"""Records as lines: what a part's documents lie in between the steps, and the files that cleaning writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from danlu.data.files import INSTALL
from danlu.errors import DataError
from danlu.types import Document

Record = dict[str, Any]
_GATHERED = 1 << 17
"""Bytes packed or unpacked at once: a call for each line would take as long as packing it."""
_LEVEL, _FAST_LEVEL = 3, 1
"""Of zstd: for what is written once and kept, and for what is read back soon."""


def record_of(document: Document, text_key: str) -> Record:
    """Return a document's record: its text, and the other fields as they came."""
    return {text_key: document.text, **document.meta}


def line_of(value: Any) -> bytes:
    """Return a value as a line of JSON. Dates and other things of .parquet become strings, lone surrogates \\udxxx."""
    try:
        return (_WRITER.encode(value) + "\n").encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=_plain).encode() + b"\n"


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_WRITER = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=_plain)


def zstandard() -> Any:
    """Return the package. Raises DataError where it is missing."""
    try:
        import zstandard
    except ImportError:
        raise DataError(f"cleaning packs what it writes, which needs one more package: {INSTALL}") from None
    return zstandard


@contextmanager
def packed(path: Path, level: int = _LEVEL) -> Generator[IO[bytes]]:
    """Yield a file to write bytes to that are packed by zstd, in one frame with a checksum."""
    compressor = zstandard().ZstdCompressor(level=level, write_checksum=True)
    with (
        path.open("wb") as file,
        compressor.stream_writer(file) as stream,
        io.BufferedWriter(stream, _GATHERED) as gathered,
    ):
        yield gathered


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write documents with all that they hold."""
    with packed(path, _FAST_LEVEL) as file:
        for document in documents:
            file.write(line_of([document.source, document.id, document.text, document.meta]))


def read_documents(path: Path, start: int, stop: int) -> Iterator[Document]:
    """Yield documents `start` … `stop` - 1 of those that `write_documents` wrote."""
    with path.open("rb") as file, zstandard().ZstdDecompressor().stream_reader(file) as stream:
        for line in islice(io.BufferedReader(stream, _GATHERED), start, stop):
            source, name, text, meta = json.loads(line.decode())  # of bytes it would guess the encoding
            yield Document(text, source, name, meta)


@contextmanager
def records_file(path: Path, kind: str, schema: Any = None) -> Generator[Callable[[Record], object]]:
    """Yield what writes a record to a new file of a kind (`Format`); `schema` is that of a .parquet."""
    if kind == "parquet":
        from danlu.data.cleaning.columns import parquet_file

        with parquet_file(path, schema) as write:
            yield write
    elif kind == "jsonl":
        with path.open("wb") as file:
            yield lambda record: file.write(line_of(record))
    else:
        with packed(path) as file:
            yield lambda record: file.write(line_of(record))
