"""Sources: files, folders, globs and named corpora, as one stream of documents.

`.jsonl` and `.txt` (plain, .gz, .zst) and `.parquet`. Everything streams: memory holds one record at a time (one
file, where a `.txt` is one document).
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from danlu import log, storage
from danlu.data import demo
from danlu.errors import DataError
from danlu.types import Document

TxtUnit = Literal["file", "line", "blank"]
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz", ".txt.zst", ".parquet")
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}
_LONGEST_LINE = 1 << 28


@dataclass
class Corpus:
    """Several sources read as one; iterating yields documents and counts what `skip_bad` passed over."""

    specs: Sequence[str]
    text_key: str = "text"
    txt_unit: TxtUnit = "file"
    skip_bad: bool = False
    skipped: int = 0
    lines: int = 0
    line_characters: int = 0
    """Lines of the files and their characters, white space at both ends left out: what the article's script counts."""

    def __post_init__(self) -> None:
        if not self.specs:
            raise DataError("no source is named. Give files, folders, globs or `demo`")
        self.files = [path for spec in self.specs for path in ([] if spec == "demo" else expand(spec))]
        self.files += demo.files() if "demo" in self.specs else []
        self._bytes_before, self._position = 0, _nowhere

    def fingerprint(self) -> str:
        """Hash all contents and the options that change what is read."""
        options = [self.text_key, self.txt_unit, str(self.skip_bad), "demo" if "demo" in self.specs else ""]
        digests = [storage.sha256_of(path) for path in self.files]
        return hashlib.sha256("\n".join(options + digests).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document]:
        self.skipped = self.lines = self.line_characters = self._bytes_before = 0
        empty = True
        for spec in self.specs:
            for path in [] if spec == "demo" else expand(spec):
                for document in self._read(path):
                    empty = False
                    yield document
            if spec == "demo":
                for document in demo.documents():
                    empty = False
                    yield document
        if empty:
            raise DataError(f"{', '.join(map(str, self.specs))}: holds no document")

    def track(self, description: str) -> Iterator[Document]:
        """Yield the documents, showing on stderr how many bytes of how many are read, and the time left."""
        total = sum(path.stat().st_size for path in self.files)
        with log.progress("bytes") as bar:
            task = bar.add_task(description, total=total, note="")
            for number, document in enumerate(self, 1):
                if number % 64 == 0:
                    read = min(total, self._bytes_before + self._position())
                    bar.update(task, completed=read, note=f"{number:,} documents")
                yield document
            bar.update(task, completed=total)

    def _read(self, path: Path) -> Iterator[Document]:
        stat = path.stat()
        if stat.st_size == 0:
            raise DataError(f"{path}: is empty")
        read = self._parquet if path.suffix == ".parquet" else self._text_file
        try:
            yield from read(path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: its compressed data is broken or cut short ({error})") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise DataError(f"{path}: changed while it was read. Copy it first, or wait until it is whole")
        self._bytes_before, self._position = self._bytes_before + stat.st_size, _nowhere

    def _text_file(self, path: Path) -> Iterator[Document]:
        with self._opened(path) as file:
            if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl"):
                yield from self._jsonl(path, file)
            else:
                yield from self._txt(path, file)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[IO[bytes]]:
        with path.open("rb") as raw:
            head = raw.read(8192)
            raw.seek(0)
            packed = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")
            named = path.suffix if path.suffix in (".gz", ".zst") else ""
            if packed != named:
                what = f"{packed} data" if packed else "no compressed data"
                raise DataError(f"{path}: holds {what}, whatever its name says. Rename it to what it is")
            self._position = raw.tell
            stream = gzip.GzipFile(fileobj=raw) if packed == ".gz" else _zstd(raw, path) if packed else raw
            start = head if not packed else b""
            if b"\0" in start:
                raise DataError(f"{path}: is binary, not text")
            yield stream  # pyright: ignore[reportReturnType]

    def _lines(self, path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
        number = 0
        while raw := file.readline(_LONGEST_LINE):
            number += 1
            if len(raw) == _LONGEST_LINE:
                raise DataError(f"{path}, line {number}: is longer than {_LONGEST_LINE >> 20} MB")
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                self._bad(f"{path}, line {number}: is no UTF-8. Convert it, e.g. iconv -f GB18030 -t UTF-8")
                continue
            self.lines += 1
            self.line_characters += len(line.strip())
            yield number, line

    def _bad(self, message: str) -> None:
        if not self.skip_bad:
            raise DataError(f"{message}, or pass over such records with --skip-bad")
        self.skipped += 1

    def _jsonl(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        for number, line in self._lines(path, file):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                self._bad(f"{path}, line {number}: is no JSON ({getattr(error, 'msg', error)})")
                continue
            document = self._record(record, path, number, f"{path}, line {number}")
            if document is not None:
                yield document

    def _record(self, record: Any, path: Path, number: int, where: str) -> Document | None:
        if not isinstance(record, dict):
            self._bad(f"{where}: is no JSON object")
        elif self.text_key not in record:
            keys = ", ".join(list(map(str, record))[:8]) or "none"
            self._bad(f"{where}: has no key {self.text_key!r} (it has: {keys}). Name another with --text-key")
        elif not isinstance(record[self.text_key], str):
            self._bad(f"{where}: its {self.text_key!r} is no string")
        else:
            meta = {key: value for key, value in record.items() if key != self.text_key}
            return Document(record[self.text_key], str(path), str(meta.get("id", number)), meta)
        return None

    def _txt(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        held: list[str] = []
        for number, line in self._lines(path, file):
            if "\0" in line:
                raise DataError(f"{path}, line {number}: is binary, not text")
            if self.txt_unit == "line" and line.strip():
                yield Document(line.rstrip("\r\n"), str(path), str(number))
            elif self.txt_unit == "blank" and not line.strip() and held:
                yield Document("".join(held).strip("\r\n"), str(path), str(number))
                held = []
            elif self.txt_unit == "file" or (self.txt_unit == "blank" and line.strip()):
                held.append(line)
        if held and "".join(held).strip():
            yield Document("".join(held).strip("\r\n"), str(path), "end" if self.txt_unit == "blank" else "0")

    def _parquet(self, path: Path) -> Iterator[Document]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise DataError(f"{path}: reading .parquet needs one more package: pip install pyarrow") from None
        try:
            file = pq.ParquetFile(path)
            if self.text_key not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names[:8])
                raise DataError(f"{path}: has no column {self.text_key!r} (it has: {names}). Name one with --text-key")
            rows = 0
            self._position = lambda: round(path.stat().st_size * rows / max(1, file.metadata.num_rows))
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    rows += 1
                    document = self._record(record, path, rows, f"{path}, row {rows}")
                    if document is not None:
                        yield document
        except pa.ArrowInvalid as error:
            message = str(error).split("\n")[0]
            raise DataError(f"{path}: is no parquet file, or a cut one ({message})") from None


def _nowhere() -> int:
    return 0


def expand(spec: str) -> list[Path]:
    """Return the files that a path, a folder or a glob names, in sorted order. Raises DataError where there is none."""
    if spec.startswith(("hf:", "modelscope:")):
        raise DataError(f"{spec}: fetching from a hub is not in this version. Download the file, then name its path")
    path = Path(spec)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        if not found:
            raise DataError(f"{spec}: holds no file that danlu reads ({', '.join(SUFFIXES)})")
        return found
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{spec}: of a kind that danlu does not read. Known: {', '.join(SUFFIXES)}")
        return [path]
    if not glob.has_magic(spec):
        raise DataError(f"{spec}: there is no such file or folder")
    found = sorted(Path(p) for p in glob.glob(spec, recursive=True) if p.endswith(SUFFIXES))
    if not found:
        raise DataError(f"{spec}: matches no file that danlu reads ({', '.join(SUFFIXES)})")
    return found


def _zstd(raw: IO[bytes], path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"{path}: reading .zst needs one more package: pip install zstandard") from None

    class Reader(io.RawIOBase):
        """A zstd stream whose errors read like gzip's."""

        def __init__(self) -> None:
            self._stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            try:
                return self._stream.readinto(buffer)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None

    return io.BufferedReader(Reader(), 1 << 16)
