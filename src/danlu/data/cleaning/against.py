"""The texts of evaluation sets, in whatever form those come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from danlu.data.sources import Corpus
from danlu.errors import DataError

_NAMES = ("id", "role")
"""Fields whose strings are no text."""


def evaluation_texts(sources: Sequence[str]) -> list[str]:
    """Return the texts of evaluation files, each once: of a .txt its lines, of a record all its strings together.

    Memory: all of them. Raises DataError where a source cannot be read or has no text.
    """
    if not sources:
        return []
    records = Corpus(sources, text_key=None, txt_unit="line")
    texts = dict.fromkeys("\n".join([document.text, *_strings(document.meta)]).strip() for document in records)
    found = [text for text in texts if text]
    if not found:
        raise DataError(f"--against {', '.join(sources)}: holds no text")
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _NAMES:
                yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def hash_of(texts: Sequence[str]) -> str:
    """Return one hash of all texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
