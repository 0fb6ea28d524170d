"""Files of a corpus: which ones a path, a folder or a glob names, and their bytes, unpacked on the way."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from danlu.data.unreadable import UnreadableFile
from danlu.errors import DataError, OutputError

ARRAY = ".json"
"""One JSON array of records, as small chat sets come; read only where it is named itself: in folders lie other ones."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz", ".txt.zst", ".parquet")
INSTALL = 'pip install -e ".[data]"'
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}
_CHUNK = 1 << 16
_PACKED_CHUNK = 1 << 10  # a block of zstd takes 4 bytes or more and unpacks to at most 128 kB: 32 MB at a time


def kind(path: Path) -> str:
    """Return what a file holds once it is unpacked: `.jsonl`, `.json`, `.txt` or `.parquet`."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix


def expand(spec: str) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted. Raises DataError for none."""
    try:
        return _expand(spec)
    except OSError as error:
        raise DataError(f"{spec[:200]}: cannot be looked up ({error.strerror})") from None


def _expand(spec: str) -> list[Path]:
    path = Path(spec)
    if spec and path.is_dir():
        found = sorted(p for p in path.rglob("*") if _readable(p))
        if not found:
            raise DataError(f"{spec}: holds no file that danlu reads ({', '.join(SUFFIXES)})")
        return found
    if path.is_file():
        if not _readable(path) and path.suffix != ARRAY:
            raise DataError(f"{spec}: of a kind that danlu does not read. Known: {', '.join((*SUFFIXES, ARRAY))}")
        return [path]
    if not glob.has_magic(spec):
        raise DataError(f"{spec or repr(spec)}: there is no such file or folder")
    # Path.glob takes no absolute pattern, and a user's pattern may well be one
    found = sorted(p for p in map(Path, glob.glob(spec, recursive=True)) if _readable(p))  # noqa: PTH207
    if not found:
        raise DataError(f"{spec}: matches no file that danlu reads ({', '.join(SUFFIXES)})")
    return found


def _readable(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and path.is_file()


def require_apart(specs: Sequence[str], files: Sequence[Path], out: Path) -> None:
    """Raise OutputError where a folder to make lies in one that is read, or would hold a file that is: it would be read
    as a source the next time."""
    place = out.resolve()
    for spec in specs:
        folder = _read_whole(spec)
        if folder is not None and place.is_relative_to(folder.resolve()):
            raise OutputError(f"{out}: lies in the source {spec}, and would be read with it. Name another --out")
    for path in files:
        if path.resolve().is_relative_to(place):
            raise OutputError(f"{out}: holds the source {path}. Name another --out")


def _read_whole(spec: str) -> Path | None:
    """Return the folder that a source reads with all folders in it."""
    path = Path(spec)
    if path.is_dir():
        return path
    parts = path.parts
    return Path(*parts[: parts.index("**")]) if "**" in parts and not path.is_file() else None


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Yield a file's unpacked bytes and a function that tells how many bytes of the file itself are read.

    Raises UnreadableFile where the contents are not what the name says, are binary, or are compressed and broken or cut
    short (also later, within the block), DataError where a package is missing.
    """
    with path.open("rb") as raw:
        head = raw.peek(8)
        packed = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")
        named = path.suffix if path.suffix in (".gz", ".zst") else ""
        if packed != named:
            what = f"{packed} data" if packed else "no compressed data"
            raise UnreadableFile(path, f"holds {what}, whatever its name says. Rename it to what it is")
        stream: Any = raw
        if packed == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif packed == ".zst":
            stream = io.BufferedReader(_Zstd(raw, path), _CHUNK)
        try:
            if b"\0" in stream.peek(_CHUNK):
                raise UnreadableFile(path, "is binary (or UTF-16), not UTF-8 text")
            yield stream, raw.tell
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableFile(path, f"its compressed data is broken or cut short ({error})") from None


class _Zstd(io.RawIOBase):
    """Frames of zstd, one after another. zstandard's own stream reader takes a cut frame for a whole one."""

    def __init__(self, raw: IO[bytes], path: Path):
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{path}: reading .zst needs one more package: {INSTALL}") from None
        self._raw, self._zstd = raw, zstandard
        self._frame, self._rest, self._ready = self._new_frame(), b"", memoryview(b"")
        self._inside = False

    def _new_frame(self) -> Any:
        return self._zstd.ZstdDecompressor().decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._rest or self._raw.read(_PACKED_CHUNK)
            if not packed:
                if self._inside:
                    raise EOFError("its last frame has no end")
                return 0
            self._ready = memoryview(self._unpack(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        try:
            plain = self._frame.decompress(packed)
        except self._zstd.ZstdError as error:
            raise EOFError(str(error)) from None
        self._inside, self._rest = not self._frame.eof, b""
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, self._new_frame()
        return plain
