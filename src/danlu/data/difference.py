"""Where two texts differ, cut out of long ones so that it can be kept and shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from difflib import SequenceMatcher
from typing import Literal

_AROUND = 60
_MOST = 1_000
_ANCHOR = 24

Mark = Literal["same", "gone", "new"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two texts from the first character that differs to the last, with 60 characters around.

    `before` and `after` are cut after 1,000 characters; `gone` and `new` are their whole lengths; `start` is where
    they begin.
    """

    start: int
    lead: str
    before: str
    gone: int
    after: str
    new: int
    tail: str

    def as_tuple(self) -> tuple[int, str, str, int, str, int, str]:
        """Return the fields in their order."""
        return astuple(self)


def difference(before: str, after: str) -> Difference:
    """Find where two texts begin to differ and where they stop."""
    start = _common(before, after)
    end = _common(before[: start - len(before) - 1 : -1], after[: start - len(after) - 1 : -1])
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    tail = before[len(before) - end :][:_AROUND]
    if len(old) > _MOST and (found := old.find(new[:_ANCHOR])) > _AROUND and len(new) >= _ANCHOR:
        old, new, tail = old[:found], "", new[:_AROUND]  # a passage was cut, and more further on
    lead = before[max(0, start - _AROUND) : start]
    return Difference(start, lead, old[:_MOST], len(old), new[:_MOST], len(new), tail)


def _common(one: str, other: str) -> int:
    """Count the characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def marked(found: Difference) -> Iterator[tuple[Mark, str]]:
    """Yield the stretches of both texts in order: what is the same, what went, what came.

    Where both were cut, what comes after their last common stretch is left out: it may have its counterpart beyond.
    """
    stretches = list(_stretches(found.before, found.after))
    if found.gone > _MOST and found.new > _MOST and any(mark == "same" for mark, _ in stretches):
        while stretches[-1][0] != "same":
            stretches.pop()
    yield ("same", ("…" if found.start > len(found.lead) else "") + found.lead)
    yield from stretches
    yield ("same", "…" if max(found.gone, found.new) > _MOST else found.tail)


def _stretches(before: str, after: str) -> Iterator[tuple[Mark, str]]:
    """Compare character by character; a common stretch shorter than the changes on both its sides is no anchor."""
    gone = new = ""
    operations = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for at, (tag, i, j, k, m) in enumerate(operations):
        if tag != "equal":
            gone, new = gone + before[i:j], new + after[k:m]
            continue
        following = operations[at + 1] if at + 1 < len(operations) else None
        if following and 0 < j - i < min(max(len(gone), len(new)), _size(following)):
            gone, new = gone + before[i:j], new + after[k:m]
            continue
        yield from _changes(gone, new)
        yield ("same", before[i:j])
        gone = new = ""
    yield from _changes(gone, new)


def _size(operation: tuple[str, int, int, int, int]) -> int:
    _, i, j, k, m = operation
    return max(j - i, m - k)


def _changes(gone: str, new: str) -> Iterator[tuple[Mark, str]]:
    if gone:
        yield ("gone", gone)
    if new:
        yield ("new", new)
