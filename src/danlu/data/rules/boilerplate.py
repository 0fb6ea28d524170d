"""Boilerplate and advertisement: sentences that a list of phrases gives away are cut, texts full of them dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from danlu.errors import DataError
from danlu.types import Document, Drop

PHRASES = Path(__file__).with_name("phrases.txt")
_ALONE, _PAIRED = "[one is enough]", "[two are needed]"
_GAP = "[^\n。！？]{0,12}"
_SENTENCES = re.compile("[^。！？]*[。！？]+[”’」』）]*|[^。！？]+")


@dataclass(frozen=True)
class CutBoilerplate:
    """Cut sentences with a phrase of the list, and whole lines of up to `line` characters that hold such a sentence.

    A text more than `share` of which would be cut is dropped. The list, `phrases.txt`, says what counts: one phrase of
    its first part, or two different ones of its second.
    Source: after C4 (Raffel et al. 2020, section 2.2), which drops lines that ask for JavaScript or name a policy, and
    pages with words of a list.
    """

    line: int
    share: float
    phrases: Path = PHRASES
    _alone: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _paired: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        alone, paired = _patterns(self.phrases)
        object.__setattr__(self, "_alone", alone)
        object.__setattr__(self, "_paired", paired)

    def __call__(self, document: Document) -> Document | Drop:
        """Cut, or drop."""
        text = document.text
        if not self._is_boilerplate(text):
            return document
        kept = "\n".join(line for line in self._lines(text) if line is not None)
        if kept == text:
            return document
        cut = len(text) - len(kept)
        return Drop("advertisement") if cut > self.share * len(text) else replace(document, text=kept.strip())

    def _lines(self, text: str) -> Iterator[str | None]:
        """Yield what is left of each line, None for a line of which nothing is."""
        for line in text.split("\n"):
            sentences = _SENTENCES.findall(line)
            kept = [sentence for sentence in sentences if not self._is_boilerplate(sentence)]
            if len(kept) == len(sentences):
                yield line
            else:
                yield "".join(kept) if kept and len(line) > self.line else None

    def _is_boilerplate(self, text: str) -> bool:
        if self._alone.search(text):
            return True
        return len(set(self._paired.findall(text))) >= 2


@cache
def _patterns(path: Path) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what finds the phrases of the first and of the second part."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of phrases ({error})") from None
    parts: dict[str, list[str]] = {_ALONE: [], _PAIRED: []}
    part = parts[_ALONE]
    for line in lines:
        if line.startswith("["):
            part = parts.get(line)
            if part is None:
                raise DataError(f"{path}: {line} is no part of a list of phrases. There are {_ALONE} and {_PAIRED}")
        elif line and not line.startswith(("#", "…")):
            part.append(line)
    return _pattern_of(parts[_ALONE]), _pattern_of(parts[_PAIRED])


def _pattern_of(phrases: list[str]) -> re.Pattern[str]:
    """Return what finds any of the phrases: grouped by their first character, or every place would try them all."""
    if not phrases:
        return re.compile(r"(?!)")
    endings: dict[str, list[str]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        endings.setdefault(phrase[0], []).append(_GAP.join(map(re.escape, phrase[1:].split("…"))))
    return re.compile("|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in endings.items()))
