"""What lines tell: bullets, ellipses, menus, headlines, verse."""

from __future__ import annotations

import re
from dataclasses import dataclass

from danlu.data.characters import Kind, kinds
from danlu.types import Document, Drop

_BULLETS = tuple("-*•·●○■□◆◇▪▶►※★☆➤√")
_ELLIPSES = ("…", "...", "。。。")
_SEPARATORS = re.compile(r"[\s|｜>»›/_]+")
_SENTENCE_MARKS = re.compile("[，。！？；：,!?;:]")
_COLON = re.compile("[:：]")
_STEP = re.compile("[0-9]{1,2} ?[.、．)）]")
_HEADLINE = range(5, 51)
_VERSE_LINE, _VERSE_LINES = 24, 6
ENDS = "。！？…!?；;．"
CLOSERS = "”’」』）)】》〉]\"'"
FINISHED = tuple(ENDS + CLOSERS + ".~：:")
"""What a finished sentence ends in; a last line may end in a colon or a ~ as well."""


def lines_of(text: str) -> list[str]:
    """Return the lines that are not blank, without white space at both ends."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def grammar(text: str) -> float:
    """Return the share of words of grammar among the Han characters: 0.05 in headlines, a quarter in what is said."""
    counts = kinds(text)
    return counts[Kind.FUNCTION] / max(1, counts[Kind.HAN] + counts[Kind.FUNCTION] + counts[Kind.GARBLED])


def is_verse(text: str, lines: list[str], least_grammar: float) -> bool:
    """Tell whether a text with these lines is a poem or a song: six different ones or more, short, of spoken words.

    Lines of 24 characters at most, of four or more on the average: entries of menus are shorter.
    """
    if grammar(text) < least_grammar or len(set(lines)) < _VERSE_LINES:
        return False
    short = sum(len(line) <= _VERSE_LINE for line in lines)
    return short >= 0.9 * len(lines) and sum(map(len, lines)) >= 4 * len(lines)


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

    Entries are what stands between white space, bars and arrows; one with a sentence's punctuation is none. Verse, with
    as many words of grammar as `grammar`, is no menu.
    Source: after FineWeb (Penedo et al. 2024, section 3.6), which drops pages of mostly short lines.
    """

    share: float
    longest: int
    from_entries: int
    grammar: float = 1

    def __call__(self, document: Document) -> Document | Drop:
        """Measure the entries, where the text has separators enough."""
        text, counts = document.text, kinds(document.text)
        separators = counts[Kind.SPACE] + counts[Kind.SYMBOL]
        if separators + 1 < self.from_entries or separators * (self.longest + 1) < self.share * len(text):
            return document
        entries = [entry for entry in _SEPARATORS.split(text) if entry]
        short = sum(len(e) for e in entries if len(e) <= self.longest and not _SENTENCE_MARKS.search(e))
        if len(entries) < self.from_entries or short <= self.share * sum(map(len, entries)):
            return document
        return document if is_verse(text, entries, self.grammar) else Drop("menu")


@dataclass(frozen=True)
class Headlines:
    """Drop a text of `from_lines` or more, more than `share` of whose characters stand in headlines or titles of links.

    These are lines of 5 to 50 characters that end no sentence, with one comma at most (none in a numbered step) and no
    colon near their start (as in a table: 尺寸：中号), where the text has fewer words of grammar than `grammar`.
    """

    share: float
    grammar: float
    from_lines: int

    def __call__(self, document: Document) -> Document | Drop:
        """Look at every line."""
        text = document.text
        if text.count("\n") + 1 < self.from_lines or grammar(text) >= self.grammar:
            return document
        lines = lines_of(text)
        titles = sum(len(line) for line in lines if _is_headline(line))
        many = len(lines) >= self.from_lines
        return Drop("headlines") if many and titles > self.share * sum(map(len, lines)) else document


def _is_headline(line: str) -> bool:
    if len(line) not in _HEADLINE or line.endswith(tuple(ENDS)) or _COLON.search(line, 0, 7):
        return False
    commas = line.count("，")
    return "。" not in line and (commas == 0 or (commas == 1 and not _STEP.match(line)))
