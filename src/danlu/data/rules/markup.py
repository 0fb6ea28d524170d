"""HTML: tags, comments and references are taken off, the text between them stays; a page of markup is no text."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.entities import html5

from danlu.types import Document, Drop

_PASSES = 3
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_REFERENCE = re.compile("&(?:amp;){0,9}(#[0-9]{2,7};|#[xX][0-9A-Fa-f]{2,6};|[A-Za-z]{2,8};)")
_TAG = re.compile(r"<!--|-->|<!DOCTYPE[^<>]*>|<(/?)([A-Za-z][A-Za-z0-9]{0,9})((?:[\s/][^<>]*)?)>", re.IGNORECASE)
_LINE_ENDS = re.compile(r"(?<![ \t\n])[ \t]*\n\s*")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HIDDEN = _names("script style noscript template")
_BREAKS = _names("br hr wbr")
_OPEN_ENDED = _names("p li td th tr dd dt option")
"""Elements that need no closing tag."""
_BLOCKS = _OPEN_ENDED | _names(
    """address article aside blockquote body br center div dl fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6
    head header hr html main nav ol pre section select table tbody tfoot thead title ul"""
)
_ELEMENTS = (
    _HIDDEN
    | _BREAKS
    | _BLOCKS
    | _names(
        """a abbr acronym audio b bdi bdo big button canvas caption cite code col colgroup data del dfn em embed font
        frame i iframe img input ins kbd label link map mark meta object param q rp rt ruby s samp small source span
        strike strong sub summary sup svg textarea time tt u var video"""
    )
)
"""Names that make a tag. Source: HTML Living Standard, and HTML 4.01."""


@dataclass(frozen=True)
class StripMarkup:
    """Take off HTML, except in code (between backquotes); drop a text more than `share` of which it is.

    References (`&lt;`, `&nbsp;`) are read, tags of blocks become line ends, others nothing; scripts and comments go
    with what is in them. A tag without attributes that is opened and never closed is what the text is about
    (用 <b> 标签, `List<Object>`), and stays.
    """

    share: float

    def __call__(self, document: Document) -> Document | Drop:
        """Take off, again where that makes new tags; what is markup still after three passes is dropped."""
        if "<" not in document.text and "&" not in document.text:
            return document
        text, taken = document.text, 0
        for _ in range(_PASSES):
            before, read = text, _outside_code(text, _read)
            text = _outside_code(read, _without_tags)
            taken += len(read) - len(text)
            if text == before:
                break
        else:
            return Drop("markup")
        if taken > self.share * (taken + len(text)):
            return Drop("markup")
        return document if text == document.text else replace(document, text=text.strip())


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what does not stand between backquotes."""
    pieces = _CODE.split(text) if "`" in text else [text]
    return "".join(piece if place % 2 else change(piece) for place, piece in enumerate(pieces))


def _read(text: str) -> str:
    return _REFERENCE.sub(_character, text) if "&" in text else text


def _character(reference: re.Match[str]) -> str:
    name = reference[1]
    return html.unescape(f"&{name}") if name.startswith("#") else html5.get(name, reference[0])


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    tags = [tag for tag in _TAG.finditer(text) if tag[2] is None or tag[2].lower() in _ELEMENTS]
    times = Counter((tag[1], (tag[2] or "").lower()) for tag in tags)
    kept, end, until = list[str](), 0, ""
    for tag in tags:
        name = tag[2].lower() if tag[2] else tag[0].lower()
        if until:  # inside of a comment or a script
            if name == until and (name == "-->" or tag[1]):
                until, end = "", tag.end()
            continue
        if name == "-->" or not (tag[2] is None or "=" in tag[3] or _is_markup(name, times)):
            continue
        kept += text[end : tag.start()], " " if name in ("td", "th") else "\n" if name in _BLOCKS else ""
        end = tag.end()
        if name == "<!--":
            until = "-->"
        elif name in _HIDDEN and not tag[1]:
            until = name
    if not kept:
        return text
    return _LINE_ENDS.sub("\n", "".join([*kept, text[end:]]))


def _is_markup(name: str, times: Counter[tuple[str, str]]) -> bool:
    """Tell whether tags of a name, seen so often opening ("") and closing ("/"), are more than words of a text."""
    opened, closed = times["", name], times["/", name]
    return name in _BREAKS or (opened > 0 and closed > 0) or closed > 1 or (opened > 1 and name in _OPEN_ENDED)
