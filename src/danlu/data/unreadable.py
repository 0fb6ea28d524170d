"""Files of a corpus that cannot be read, and what is said of those that are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from danlu import log
from danlu.errors import DataError

_NAMED = 5


class UnreadableFile(DataError):
    """A file that is broken, of another kind than its name says, or not for this user to read.

    What is no fault of the file is a plain DataError: a missing package, a key that no record has, a file that changes.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def say(reasons: Mapping[str, str]) -> None:
    """Name on stderr the first few files that were passed over, each with its reason, and count the others."""
    for path, reason in list(reasons.items())[:_NAMED]:
        log.say(f"passed over {path}: {reason}")
    if len(reasons) > _NAMED:
        log.say(f"passed over {len(reasons) - _NAMED:,} more files that cannot be read")


def counted(records: int, files: int) -> str:
    """Say how many records, and files if any, were passed over."""
    return f"{records:,}" if not files else f"{records:,} records, {files:,} {'file' if files == 1 else 'files'}"
