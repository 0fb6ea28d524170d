"""What lines tell: lines said twice, bullets, ellipses, menus, a last sentence that breaks off."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from danlu.data.characters import Kind, kinds
from danlu.types import Document, Drop

_BULLETS = tuple("-*•·●○■□◆◇▪▶►※★☆➤√")
_ELLIPSES = ("…", "...", "。。。")
_SEPARATORS = re.compile(r"[\s|｜>»›/_]+")
_SENTENCE_MARKS = re.compile("[，。！？；：,!?;:]")
_ENDS = "。！？…!?；;．"
_CLOSERS = "”’」』）)】》〉]\"'"
_FINISHED = tuple(_ENDS + _CLOSERS + ".~：:")
_UP_TO_LAST_END = re.compile(rf"(?s:.*)(?:[{_ENDS}]|\.(?![0-9A-Za-z]))[{re.escape(_CLOSERS)}]*")


def lines_of(text: str) -> list[str]:
    """Return the lines that are not blank, without white space at both ends."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


@dataclass(frozen=True)
class RepeatedLines:
    """Drop a text more than `lines` of whose lines, or `characters` of whose characters, stand in copies of lines.

    Source: Gopher, table A1: 0.30 of the lines, 0.20 of the characters.
    """

    lines: float
    characters: float

    def __call__(self, document: Document) -> Document | Drop:
        """Count what came before."""
        if "\n" not in document.text:
            return document
        counts = Counter(lines_of(document.text))
        copies = sum(count - 1 for count in counts.values())
        copied = sum((count - 1) * len(line) for line, count in counts.items())
        total = sum(count * len(line) for line, count in counts.items())
        if copies > self.lines * counts.total() or copied > self.characters * total:
            return Drop("repeated_lines")
        return document


@dataclass(frozen=True)
class ListLines:
    """Drop a text of `from_lines` or more, of which more than `bullets` begin as list items or `ellipses` trail off.

    Source: Gopher, A.1.1: 0.9 and 0.3.
    """

    bullets: float
    ellipses: float
    from_lines: int

    def __call__(self, document: Document) -> Document | Drop:
        """Look at both ends of every line."""
        if document.text.count("\n") + 1 < self.from_lines:
            return document
        lines = lines_of(document.text)
        if len(lines) < self.from_lines:
            return document
        if sum(line.startswith(_BULLETS) for line in lines) > self.bullets * len(lines):
            return Drop("bullet_lines")
        if sum(line.endswith(_ELLIPSES) for line in lines) > self.ellipses * len(lines):
            return Drop("ellipsis_lines")
        return document


@dataclass(frozen=True)
class Menu:
    """Drop a text of `from_entries` or more, more than `share` of whose characters stand in entries of up to `longest`.

    Entries are what stands between white space, bars and arrows; one with a sentence's punctuation is none.
    Source: after FineWeb (Penedo et al. 2024, section 3.6), which drops pages of mostly short lines.
    """

    share: float
    longest: int
    from_entries: int

    def __call__(self, document: Document) -> Document | Drop:
        """Measure the entries, where the text has separators enough."""
        text, counts = document.text, kinds(document.text)
        separators = counts[Kind.SPACE] + counts[Kind.SYMBOL]
        if separators + 1 < self.from_entries or separators * (self.longest + 1) < self.share * len(text):
            return document
        entries = [entry for entry in _SEPARATORS.split(text) if entry]
        short = sum(len(e) for e in entries if len(e) <= self.longest and not _SENTENCE_MARKS.search(e))
        many = len(entries) >= self.from_entries
        return Drop("menu") if many and short > self.share * sum(map(len, entries)) else document


@dataclass(frozen=True)
class FinishSentence:
    """Cut a text of `from_characters` or more back to its last finished sentence, drop it if less than `keep` is left.

    Source: C4 (Raffel et al. 2020, section 2.2) keeps only lines that end in terminal punctuation.
    """

    from_characters: int
    keep: float

    def __call__(self, document: Document) -> Document | Drop:
        """Look for the last end of a sentence."""
        text = document.text
        if len(text) < self.from_characters or text.endswith(_FINISHED):
            return document
        finished = _UP_TO_LAST_END.match(text)
        if finished is None or finished.end() < self.keep * len(text):
            return Drop("unfinished")
        return replace(document, text=finished[0])
