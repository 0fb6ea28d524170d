"""Pieces of HTML. Every text that goes into one is escaped here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any


def fill(room: str, name: str, parts: Mapping[str, str]) -> str:
    """Return the template `name` of the package `room`, each `__PLACE__` of it filled with its part.

    `__STYLE__` is the common style sheet. What looks like a place within a part is a text, and stays.
    """
    template = (resources.files(room) / name).read_text(encoding="utf-8")
    style = (resources.files("danlu.pages") / "style.css").read_text(encoding="utf-8")
    return re.sub(r"__([A-Z]+)__", lambda found: {"STYLE": style, **parts}[found[1]], template)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table that scrolls by itself where it is too wide."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """Make a list of names and values."""
    pairs = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(plain(value))}</dd>" for key, value in values.items())
    return f"<dl>{pairs}</dl>"


def cards(shown: Iterable[tuple[str, str]]) -> str:
    """Make a figure and its label each."""
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in shown)


def plain(value: Any) -> str:
    """Write a value as people read it: thousands apart, four digits of a fraction, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def short(number: float | None) -> str:
    """Write a large number in G or M, a smaller one whole."""
    size = number or 0
    scale, letter = (1e9, "G") if size >= 1e9 else (1e6, "M") if size >= 1e6 else (1, "")
    return f"{size / scale:.2f}{letter}" if letter else f"{size:,.0f}"


def script_json(value: Any) -> str:
    """Write JSON that no text in it can break out of a script element."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
