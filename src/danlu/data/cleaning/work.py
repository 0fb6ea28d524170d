"""The work folder beside the output: what is finished lies in it, so that an interrupted run goes on there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danlu import storage
from danlu.data.cleaning.settings import CleanSettings
from danlu.errors import OutputError

RUN, READ, AGAINST, GOOD, COLUMNS = "run.json", "read.json", "against.json", "good", "columns"
_SHOWN = 16
Step = Literal["sifted", "written"]


@dataclass(frozen=True, slots=True)
class Work:
    """A run's work folder: `sifted/N` and `written/N` of each part, `compared`, `run.json` (which run it belongs to).

    Each of these folders is whole or absent (`danlu.storage`): nothing in them is ever mended, only made or left alone.
    """

    folder: Path
    identity: dict[str, Any] = field(compare=False)
    """What all runs have in common that may go on here."""
    settings: CleanSettings = field(compare=False)
    digest: str
    """Hash of the identity: what is read from two folders of one name and one digest is the same."""

    @classmethod
    def beside(cls, out: Path, settings: CleanSettings, identity: dict[str, Any]) -> Work:
        """Return the work folder of an output folder."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return cls(folder_beside(out), identity, settings, digest)

    def part(self, step: Step, number: int) -> Path:
        """Return a part's folder."""
        return self.folder / step / f"{number:06d}"

    def finished_parts(self) -> int:
        """Count the parts that are sifted or written."""
        return sum(1 for _ in self.folder.glob("*/[0-9]*"))

    @property
    def compared(self) -> Path:
        """Return the folder of what all parts together tell."""
        return self.folder / "compared"

    @property
    def read(self) -> Path:
        """Return the file that is there once every part is sifted."""
        return self.folder / READ

    @property
    def against(self) -> Path:
        """Return the file with the evaluation texts, which is there if there are any."""
        return self.folder / AGAINST

    @property
    def good(self) -> Path:
        """Return the folder of what good text is like, which is there if some was named."""
        return self.folder / GOOD

    @property
    def columns(self) -> Path:
        """Return the file with the sources' schema, which is there if they are tables and a table is to be made."""
        return self.folder / COLUMNS


def folder_beside(out: Path) -> Path:
    """Return the work folder's path for an output folder."""
    return out.absolute().parent / f".{out.name}.clean"


@contextmanager
def opened(work: Work, part_characters: int) -> Generator[None]:
    """Hold a work folder. Parts of another run there, or of another size, are not thrown away: they are refused.

    Raises OutputError for those, where another process works there, or it cannot be written.
    """
    with storage.clear_errors(work.folder):
        storage.make_folders(work.folder)
        with storage.only_writer(work.folder):
            _begin(work, {**work.identity, "part_characters": part_characters})
            yield


def _begin(work: Work, wanted: dict[str, Any]) -> None:
    path = work.folder / RUN
    if path.is_file():
        found = storage.read_json(path, OutputError)
        if found == wanted:
            return
        if work.finished_parts():
            raise OutputError(
                f"{work.folder}: holds what a run with {_difference(found, wanted)} has finished. Give what it was "
                "given to go on there, name another --out, or remove that folder"
            )
        path.unlink()
    for entry in work.folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    storage.write_json(path, wanted)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say what two runs do not have in common, and of the first few settings what they were and are."""
    if found.get("inputs") != wanted["inputs"]:
        return "other input (a source has changed, or others were named)"
    before, now = _flat(found), _flat(wanted)
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    changes = [f"{key} {_short(before.get(key))}, now {_short(now.get(key))}" for key in keys[:3]]
    return f"other settings ({'; '.join(changes)}{'; …' if keys[3:] else ''})"


def _short(value: Any) -> str:
    shown = "none" if value is None else str(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.removeprefix("settings."): value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array's bytes, little-endian; unlike `tofile` this says why where it cannot."""
    with path.open("wb") as file:
        append(file, array)


def append(file: Any, array: np.ndarray) -> None:
    """Append an array's bytes to a file."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if little.size:
        file.write(little.data.cast("B"))


def read_array(path: Path, dtype: str) -> np.ndarray:
    """Return a flat array that `write_array` wrote."""
    return np.fromfile(path, dtype)


def map_array(path: Path, dtype: str) -> np.ndarray:
    """Return a flat array that `write_array` wrote, mapped and not read."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
