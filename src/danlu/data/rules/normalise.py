"""One form for one character: half-width letters and digits, composed marks, optionally simplified characters."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from danlu.data.characters import HALF_WIDTH, Kind, kinds
from danlu.data.rules.encoding import optional
from danlu.types import Document

_MARKS_IN_A_ROW = 30
_REFERENCE = re.compile("&(?:#[0-9]{2,7}|#[xX][0-9A-Fa-f]{2,6}|[A-Za-z]{2,8});")
_POINT = re.compile("(?<=[0-9])．(?=[0-9])")
_FULL_WIDTH = re.compile(f"[{''.join(map(chr, HALF_WIDTH))}]+")


def half_width(document: Document) -> Document:
    """Make full-width letters and digits half-width, and the point of a number (５．２); punctuation (，！％) stays."""
    if not kinds(document.text)[Kind.WIDE]:
        return document
    text = _FULL_WIDTH.sub(lambda found: found[0].translate(HALF_WIDTH), document.text)
    return replace(document, text=_POINT.sub(".", text))


def compose(document: Document) -> Document:
    """Bring a text to Unicode's form NFC: é is one code point, a compatibility ideograph the character it stands for.

    Of more than 30 combining marks in a row, the first 30 stay: no writing needs more, and putting marks in order takes
    quadratic time. Source: Unicode Standard Annex 15, section 13, "Stream-Safe Text Process".
    """
    text = document.text
    if kinds(text)[Kind.MARK] > _MARKS_IN_A_ROW:
        text = _many_marks().sub(r"\1", text)
    composed = unicodedata.normalize("NFC", text)  # which returns what is in that form already
    return document if composed == document.text else replace(document, text=composed)


@cache
def _many_marks() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{{_MARKS_IN_A_ROW}}})[{marks}]+")


def unescape(document: Document) -> Document:
    """Turn HTML's references to characters beyond ASCII (`&#32431;`, `&nbsp;`, `&ldquo;`) into these.

    `&lt;` and `&amp;` stay: a text may be about them, and what they give could be read as a reference again.
    """
    if "&" not in document.text:
        return document
    return replace(document, text=_REFERENCE.sub(_beyond_ascii, document.text))


def _beyond_ascii(reference: re.Match[str]) -> str:
    text = html.unescape(reference[0])
    return reference[0] if text.isascii() else text


@dataclass(frozen=True)
class ShortenRuns:
    """Shorten a run of one sign (！！！！！！, ~~~~~~) to `longest`; letters, digits and spaces are left alone."""

    longest: int

    def __call__(self, document: Document) -> Document:
        """Look for signs that stand in a row."""
        text, counts = document.text, kinds(document.text)
        if counts[Kind.PUNCTUATION] + counts[Kind.SYMBOL] <= self.longest:
            return document
        shorter = _pattern_of_runs(self.longest).sub(lambda run: run[1] * self.longest, text)
        return document if len(shorter) == len(text) else replace(document, text=shorter)


@cache
def _pattern_of_runs(longest: int) -> re.Pattern[str]:
    return re.compile(rf"([^\w\s])\1{{{longest},}}")


@dataclass(frozen=True)
class Simplify:
    """Turn traditional characters into simplified ones, by OpenCC's words and characters (`t2s`)."""

    _converter: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_converter", optional("opencc", "simplifying characters").OpenCC("t2s"))

    def __call__(self, document: Document) -> Document:
        """Convert the text."""
        text = self._converter.convert(document.text)
        return document if text == document.text else replace(document, text=text)

    def __reduce__(self):
        return type(self), ()
