"""Addresses on the web: a page of links is no text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from danlu.data.characters import Kind, kinds
from danlu.types import Document, Drop

ADDRESS = re.compile(r"(?:https?://|ftp://|www\.)[0-9A-Za-z._~:/?#@!$&'*+,;=%-]+")
_SHORTEST = 8


@dataclass(frozen=True)
class Links:
    """Drop a text more than `characters` of which are addresses, or more than `lines` of whose lines have one.

    The latter counts from `from_lines` lines on.
    """

    characters: float
    lines: float
    from_lines: int

    def __call__(self, document: Document) -> Document | Drop:
        """Find the addresses, where there are letters enough for one."""
        text = document.text
        if kinds(text)[Kind.LATIN] < _SHORTEST or not ADDRESS.search(text):
            return document
        if sum(len(found) for found in ADDRESS.findall(text)) > self.characters * len(text):
            return Drop("links")
        lines = [line for line in text.split("\n") if line]
        linked = sum(ADDRESS.search(line) is not None for line in lines)
        return Drop("links") if len(lines) >= self.from_lines and linked > self.lines * len(lines) else document
