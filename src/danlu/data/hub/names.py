"""Names of data sets on a hub, `hf:OWNER/NAME[@REV][:GLOB]`, and which of a set's files a name means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from danlu.data.files import ARRAY, SUFFIXES
from danlu.errors import DataError

HUBS = ("hf", "modelscope")
_FORM = "OWNER/NAME, then @REVISION and :GLOB if wanted, as in hf:wikimedia/wikipedia:20231101.zh/*.parquet"
_NAME = re.compile(r"(hf|modelscope):(\w[\w.-]*/\w[\w.-]*)(?:@([^:@\s]+))?(?::(.+))?", re.ASCII)
_ABOUT = ("readme", "license", "licence", "notice", "changelog", "requirements")
"""Beginnings of names of `.txt` files that tell of a set; they are read only where they are named."""
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class HubName:
    """A data set on a hub; `revision` is a branch, a tag or a commit, and "" the hub's default branch."""

    hub: Literal["hf", "modelscope"]
    repo: str
    revision: str = ""
    glob: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.hub}:{self.repo}{at}" + (f":{self.glob}" if self.glob else "")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as a hub lists it: its path in the set, its length, and its sha256 or its git object's sha1."""

    path: str
    bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a set holds at one revision; not `whole` where only a cache was asked, which may hold a part of it."""

    revision: str
    files: tuple[HubFile, ...]
    whole: bool = True


def is_hub_name(source: str) -> bool:
    """Tell whether a source is meant as a name on a hub."""
    return source.startswith(tuple(f"{hub}:" for hub in HUBS))


def read_name(source: str) -> HubName:
    """Take a name apart. Raises DataError for one of another form."""
    match = _NAME.fullmatch(source)
    revision = PurePosixPath((match and match[3]) or "")
    if match is None or ".." in revision.parts or revision.is_absolute():
        hub = source.partition(":")[0]
        raise DataError(f"{source}: is no name of a data set. After {hub}: comes {_FORM}")
    return HubName(match[1], match[2], match[3] or "", match[4] or "")  # pyright: ignore[reportArgumentType]


def require_safe(files: Sequence[HubFile], name: HubName) -> None:
    """Raise DataError for a path that would lie outside the cache."""
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in file.path or "\\" in file.path:
            raise DataError(f"{name}: the hub lists a file {file.path!r}, which danlu does not write. Name another set")


def choose(files: Sequence[HubFile], name: HubName) -> list[HubFile]:
    """Return the files that a name means, sorted. Raises DataError, with what there is, for none or no clear set.

    A glob is matched against the whole path, `*` crosses folders; a file or a folder may be named as it is. Without
    one it is all files that danlu reads, if their paths differ in nothing but digits.
    """
    if name.glob:
        return _matching(files, name)
    found = _readable(file for file in files if not _tells_of_the_set(file.path))
    if not found:
        raise DataError(f"{name}: holds no file that danlu reads ({', '.join(SUFFIXES)}). It holds {_shown(files)}")
    if len({_family(file.path) for file in found}) > 1:
        raise DataError(f"{name}: holds several sets of files. Add one of them, or :* for all: {_shown(found)}")
    return found


def _matching(files: Sequence[HubFile], name: HubName) -> list[HubFile]:
    named = [file for file in files if file.path == name.glob]
    folder = f"{name.glob.rstrip('/')}/"
    matched = named or [f for f in files if f.path.startswith(folder) or fnmatchcase(f.path, name.glob)]
    found = _readable(matched) or [file for file in named if file.path.endswith(ARRAY)]
    if not matched:
        raise DataError(f"{name}: {name.glob!r} matches no file. There is {_shown(files)}")
    if not found:
        known = ", ".join((*SUFFIXES, ARRAY))
        raise DataError(f"{name}: {_shown(matched)} is of no kind that danlu reads ({known}). Name other files")
    return found


def _readable(files: Iterable[HubFile]) -> list[HubFile]:
    return sorted((file for file in files if file.path.endswith(SUFFIXES)), key=lambda file: file.path)


def _tells_of_the_set(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return name.endswith(".txt") and name.startswith(_ABOUT)


def _family(path: str) -> str:
    """Return a glob that also matches files numbered otherwise."""
    return re.sub(r"\d+", "*", path)


def _shown(files: Sequence[HubFile]) -> str:
    """Describe files as globs that can be pasted, with counts and sizes."""
    families: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        families.setdefault(_family(file.path), []).append(file)
    parts = [
        f":{family if len(held) > 1 else held[0].path} ({_count(len(held))}{size(sum(f.bytes for f in held))})"
        for family, held in list(families.items())[:_SHOWN]
    ]
    more = f" and {len(families) - _SHOWN:,} more" if len(families) > _SHOWN else ""
    return (", ".join(parts) or "nothing") + more


def _count(files: int) -> str:
    return f"{files:,} files, " if files > 1 else ""


def size(count: int) -> str:
    """Write a number of bytes as a person reads it: 999 bytes, 1.7 GB."""
    number = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
