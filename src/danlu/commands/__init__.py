"""One short module a verb. Each has `run(argv) -> int`: parse, import the heavy part, call it, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from danlu.errors import DanluError

if TYPE_CHECKING:
    from danlu.data.sources import Corpus


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read: shared by every verb that takes some."""

    text_key: str = "text"
    """key (or column) that holds the text, in .jsonl and .parquet"""
    txt_unit: Literal["file", "line", "blank"] = "file"
    """what a document is in .txt: the file, a line, or what blank lines separate"""
    skip_bad: bool = False
    """pass over records that cannot be read, and count them, instead of stopping at the first"""

    def corpus(self, sources: Sequence[str]) -> Corpus:
        """Open sources as one corpus."""
        from danlu.data.sources import Corpus

        return Corpus(sources, self.text_key, self.txt_unit, self.skip_bad)


def required(value: Any, flag: str, what: str) -> Any:
    """Return a flag's value. Raises DanluError where it was not given."""
    if value is None:
        raise DanluError(f"{flag} is missing: {what}")
    return value


def finish(result: dict[str, Any], text: str, as_json: bool) -> int:
    """Print the human text on stdout and, with --json, exactly one JSON object as the last line."""
    if text:
        print(text, flush=True)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str), flush=True)
    return 0
