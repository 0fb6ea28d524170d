"""Sources: files, folders, globs, named corpora and sets on a hub, as one stream of documents.

`.jsonl` and `.txt` (plain, .gz, .zst), `.parquet`, and a `.json` array where it is named itself. All but that streams:
memory holds one record at a time (one file, where a `.txt` is one document; one batch of rows of a `.parquet`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from danlu import log, storage
from danlu.data import demo, demo_chat
from danlu.data.corpora import corpora
from danlu.data.encodings import encoding_of, not_utf8
from danlu.data.files import ARRAY, expand, kind, opened
from danlu.data.hub.fetch import fetch
from danlu.data.hub.names import is_hub_name
from danlu.data.tables import records, table
from danlu.data.unreadable import UnreadableFile, counted, say
from danlu.errors import DataError
from danlu.types import Document

TxtUnit = Literal["file", "line", "blank"]
KINDS = "files, folders, globs, `demo`, `demo-chat`, hf:OWNER/NAME, modelscope:OWNER/NAME or a name of `danlu corpora`"
_NAMED = {"demo": demo, "demo-chat": demo_chat}
_LONGEST_LINE = 1 << 28


@dataclass
class Corpus:
    """Several sources read as one, each file once; iterating yields documents, in the order of the sources.

    Raises DataError for a source that is not there, is of no known kind or holds nothing, for a file that cannot be
    read and a record without a text, and for a file that is no longer what it was when the corpus was made. With
    `skip_bad` records without a text are counted in `skipped`, files that cannot be read (or from some place on) are
    noted with the reason in `skipped_files`, and both are passed over. `revisions` says which commit of a set on a hub
    is read.
    """

    specs: Sequence[str]
    text_key: str | None = "text"
    """Where a record's text is; with None a document holds its whole record as `meta`, and no text.
    Named corpora do not look at it: `demo-chat` gives records and text ("question\\nanswer") at once."""
    txt_unit: TxtUnit = "file"
    skip_bad: bool = False
    skipped: int = 0
    lines: int = 0
    line_characters: int = 0
    """Lines of the files and their characters without white space at both ends, as the article counts them;
    `.parquet` and named corpora have no such lines: those of their texts are counted."""

    def __post_init__(self) -> None:
        if not self.specs:
            raise DataError(f"no source is named. Give {KINDS}")
        self.revisions: dict[str, str] = {}
        self.skipped_files: dict[str, str] = {}
        self.bytes_fetched = 0
        found = {spec: self._files_of(spec) for spec in self.specs}
        self.files = list(dict.fromkeys(path for paths in found.values() for path in paths))
        self._named = {path: spec for spec, paths in found.items() if spec in _NAMED for path in paths}
        self._stamps = {path: _stamp(path) for path in self.files}
        self._finished, self._position = 0, _nowhere

    def _files_of(self, spec: str) -> Sequence[Path]:
        """Return a source's files; those of a set on a hub are fetched, and its revision is noted."""
        if spec in _NAMED:
            return _NAMED[spec].files()
        source = corpora()[spec].source if spec in corpora() else spec
        if not is_hub_name(source):
            return expand(spec)
        fetched = fetch(source)
        self.revisions[spec], self.bytes_fetched = fetched.revision, self.bytes_fetched + fetched.bytes_fetched
        return fetched.files

    @property
    def bytes_total(self) -> int:
        """Bytes of all files, as they lie on the disk."""
        return sum(size for size, _ in self._stamps.values())

    @property
    def bytes_read(self) -> int:
        """Bytes of the files read so far."""
        return min(self.bytes_total, self._finished + self._position())

    def fingerprint(self) -> str:
        """Hash all contents, the revisions of sets on a hub, and the options that change what is read."""
        parts = [self.text_key or "", self.txt_unit, str(self.skip_bad), *self.revisions.values()]
        for path in self.files:
            try:
                contents = storage.sha256_of(path)
            except OSError as error:
                self._pass_over(path, _no_access(path, error))
                contents = ""
            parts += [self._named.get(path) or kind(path), contents]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document]:
        self.skipped = self.lines = self.line_characters = self._finished = 0
        self.skipped_files = {}
        documents = 0
        for path in self.files:
            for document in self._read(path):
                documents += 1
                yield document
            self._finished, self._position = self._finished + self._stamps[path][0], _nowhere
        say(self.skipped_files)
        if not documents:
            passed = counted(self.skipped, len(self.skipped_files))
            also = f" (unreadable and passed over: {passed})" if passed != "0" else ""
            raise DataError(f"{', '.join(self.specs)}: holds no document{also}")

    def firsts(self) -> Iterator[Document]:
        """Yield the first document of each file that has one."""
        for path in self.files:
            with closing(self._read(path)) as documents:
                yield from islice(documents, 1)

    def schemas(self) -> Iterator[tuple[Path, Any]]:
        """Yield the Arrow schema of each file; none at all unless all are .parquet."""
        if self._named or any(kind(path) != ".parquet" for path in self.files):
            return
        for path in self.files:
            try:
                with table(path) as file:
                    schema = file.schema_arrow
            except OSError as error:
                self._pass_over(path, _no_access(path, error))
            except UnreadableFile as error:
                self._pass_over(path, error)
            else:
                yield path, schema

    def track(self, description: str) -> Iterator[Document]:
        """Yield the documents, showing on stderr how many bytes of how many are read, and the time left."""
        with log.progress("bytes") as bar:
            task = bar.add_task(description, total=self.bytes_total, note="")
            for number, document in enumerate(self, 1):
                if number % 64 == 0:
                    bar.update(task, completed=self.bytes_read, note=f"{number:,} documents")
                yield document
            bar.update(task, completed=self.bytes_total)

    def _read(self, path: Path) -> Generator[Document]:
        read = 0
        try:
            for document in self._documents(path):
                read += 1
                yield document
        except OSError as error:
            self._pass_over(path, _no_access(path, error), read)
        except DataError as error:
            self._require_unchanged(path)  # a record that is half there is no fault of the file's author
            self._pass_over(path, error, read)
        self._require_unchanged(path)

    def _documents(self, path: Path) -> Iterator[Document]:
        if path in self._named:
            return self._without_lines(_NAMED[self._named[path]].documents(path))
        if self._stamps[path][0] == 0:
            raise UnreadableFile(path, "is empty")
        if kind(path) == ".parquet":
            return self._without_lines(self._parquet(path))
        return self._text_file(path)

    def _pass_over(self, path: Path, error: DataError, read: int = 0) -> None:
        """Pass over a file, or what follows the `read` documents of it, if `skip_bad` says so and the file is at fault.

        Raises the error otherwise.
        """
        if not isinstance(error, UnreadableFile):
            raise error from None
        if not self.skip_bad:
            also = ". --skip-bad passes over such files" if len(self.files) > 1 else ""
            raise UnreadableFile(path, error.reason + also) from None
        before = f" (after {read:,} documents, which stay)" if read else ""
        self.skipped_files[str(path)] = error.reason + before

    def _require_unchanged(self, path: Path) -> None:
        if _stamp(path) != self._stamps[path]:
            raise DataError(f"{path}: changed while it was read. Copy it first, or wait until it is whole")

    def bad(self, message: str) -> None:
        """Raise DataError for a bad record, or count it where `skip_bad` says so."""
        if not self.skip_bad:
            raise DataError(f"{message}. --skip-bad counts such records and goes on")
        self.skipped += 1

    def _without_lines(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            for line in document.text.split("\n"):
                self._count(line)
            yield document

    def _count(self, line: str) -> None:
        self.lines += 1
        self.line_characters += len(line.strip())

    def _text_file(self, path: Path) -> Iterator[Document]:
        with opened(path) as (file, self._position):
            read = {".jsonl": self._jsonl, ARRAY: self._array}.get(kind(path), self._txt)
            yield from read(path, file)

    def _lines(self, path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
        number, is_utf8 = 0, False
        while raw := file.readline(_LONGEST_LINE):
            number += 1
            where = f"{path}, line {number}"
            if len(raw) == _LONGEST_LINE:
                raise UnreadableFile(path, f"line {number} is longer than {_LONGEST_LINE >> 20} MB")
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = not_utf8(error, raw)
                if not is_utf8 and encoding_of(raw):  # not this line alone: all of the file
                    raise UnreadableFile(path, f"line {number}: {reason}") from None
                self.bad(f"{where}: {reason}")
                continue
            is_utf8 = is_utf8 or not line.isascii() or kind(path) == ".jsonl"  # whose writers escape
            if "\0" in line:
                self.bad(f"{where}: is binary, not text")
                continue
            self._count(line)
            yield number, line

    def _jsonl(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        for number, line in self._lines(path, file):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.bad(f"{where}: is no JSON ({getattr(error, 'msg', error)})")
                continue
            document = self._record(record, path, number, where)
            if document is not None:
                yield document

    def _array(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        """Read one JSON array of records, all of it at once."""
        contents = file.read()
        try:
            array = json.loads(contents.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UnreadableFile(path, not_utf8(error, contents)) from None
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(path, f"is no JSON ({error}). One record a line is .jsonl") from None
        if not isinstance(array, list):
            raise UnreadableFile(path, "is no JSON array of records. One record a line is .jsonl")
        for number, record in enumerate(array, 1):
            document = self._record(record, path, number, f"{path}, record {number}")
            if document is not None:
                self._count(document.text)
                yield document

    def _record(self, record: Any, path: Path, number: int, where: str) -> Document | None:
        if not isinstance(record, dict):
            self.bad(f"{where}: is no JSON object")
        elif self.text_key is None:
            return Document("", str(path), str(record.get("id", number)), record)
        elif self.text_key not in record:
            self.bad(f"{where}: {_no_key(self.text_key, list(record))}")
        elif not isinstance(record[self.text_key], str):
            kind_of = type(record[self.text_key]).__name__
            self.bad(f"{where}: its {self.text_key!r} is no string ({kind_of})")
        else:
            meta = {key: value for key, value in record.items() if key != self.text_key}
            return Document(record[self.text_key], str(path), str(meta.get("id", number)), meta)
        return None

    def _txt(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        held: list[str] = []
        first = 1
        for number, line in self._lines(path, file):
            ends = self.txt_unit == "line" or (self.txt_unit == "blank" and not line.strip())
            if line.strip() or not ends:
                first = first if held else number
                held.append(line)
            if ends and held:
                yield _passage(held, path, first)
                held = []
        if any(line.strip() for line in held):
            yield _passage(held, path, first)

    def _parquet(self, path: Path) -> Iterator[Document]:
        with table(path) as file:
            names = file.schema_arrow.names
            if self.text_key is not None and self.text_key not in names:
                raise DataError(f"{path}: {_no_key(self.text_key, names)}")
            row, total, size = 0, max(1, file.metadata.num_rows), self._stamps[path][0]
            self._position = lambda: size * row // total
            for row, record in enumerate(records(file, path), 1):
                document = self._record(record, path, row, f"{path}, row {row}")
                if document is not None:
                    yield document


def _passage(lines: list[str], path: Path, first: int) -> Document:
    return Document("".join(lines).strip("\r\n"), str(path), str(first))


def _no_key(key: str, found: list[str]) -> str:
    return f"has no {key!r} (it has: {', '.join(found[:8]) or 'nothing'}). Name one with --text-key"


def _nowhere() -> int:
    return 0


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _no_access(path, error) from None
    return stat.st_size, stat.st_mtime_ns


def _no_access(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the system does not give; only a permission is a matter of the file itself."""
    reason = f"cannot be read ({error.strerror or error})"
    return UnreadableFile(path, reason) if isinstance(error, PermissionError) else DataError(f"{path}: {reason}")
