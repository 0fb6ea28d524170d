"""Lines said twice: those of a page between the chapters of a text are cut, a text full of copies is dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from danlu.data.rules.lines import FINISHED, is_verse, lines_of
from danlu.types import Document, Drop

_TIMES, _APART = 4, 150
_FEWEST, _WHOLE = 5, 12
_OFTEN = 0.25


@dataclass(frozen=True)
class RepeatedLines:
    """Drop a text more than `lines` of whose lines, or `characters` of whose characters, stand in copies of lines.

    Lines that come back four times or more, 150 characters apart on the average, are a site's name or the like: they
    are cut everywhere, and the text is dropped if that is more than `characters` of it. Left alone are short answers
    (“嗯。”), lines of fewer than five letters (names in a play) and verse, of which `refrain` may be copies; verse has
    as many words of grammar as `grammar`.
    Source: Gopher, table A1: 0.30 of the lines, 0.20 of the characters.
    """

    lines: float
    characters: float
    refrain: float = 0
    grammar: float = 1

    def __call__(self, document: Document) -> Document | Drop:
        """Count what came before."""
        text = document.text
        if "\n" not in text:
            return document
        lines = lines_of(text)
        counts = Counter(lines)
        if len(counts) == len(lines):
            return document
        verse = counts.most_common(1)[0][1] <= _OFTEN * len(lines) and is_verse(text, lines, self.grammar)
        between = set[str]() if verse else _between_chapters(lines, counts)
        if between:
            text = "\n".join(line for line in text.split("\n") if line.strip() not in between).strip()
            counts = Counter({line: count for line, count in counts.items() if line not in between})
            if len(document.text) - len(text) > self.characters * len(document.text):
                return Drop("repeated_lines")
        copies = counts.total() - len(counts)
        copied = sum((count - 1) * len(line) for line, count in counts.items() if count > 1)
        total = sum(count * len(line) for line, count in counts.items())
        most_lines = max(self.lines, self.refrain * verse)
        most_characters = max(self.characters, self.refrain * verse)
        if copies > most_lines * counts.total() or copied > most_characters * total:
            return Drop("repeated_lines")
        return document if not between else replace(document, text=text)


def _between_chapters(lines: list[str], counts: Counter[str]) -> set[str]:
    """Return the lines that come back again and again, far apart."""
    often = {line for line, count in counts.items() if count >= _TIMES and _may_be_of_a_page(line)}
    if not often:
        return often
    first, last, place = dict[str, int](), dict[str, int](), 0
    for line in lines:
        if line in often:
            first.setdefault(line, place)
            last[line] = place
        place += len(line)
    return {line for line in often if last[line] - first[line] >= _APART * (counts[line] - 1)}


def _may_be_of_a_page(line: str) -> bool:
    letters = sum(map(str.isalnum, line))
    return letters >= _WHOLE or (letters >= _FEWEST and not line.endswith(FINISHED))
