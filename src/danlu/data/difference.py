"""Where two texts differ, cut out of long ones so that it can be kept and shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np

_AROUND = 60
_MOST = 1_000
_ANCHOR = 24
_CHANCE = 3

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
    """Yield stretches in order; a common one of one or two characters between longer changes is chance."""
    gone = new = ""
    i = k = 0
    runs = [*_common_runs(before, after), (len(before), len(after), 0)]
    for (start, start_after, length), (following, following_after, _) in zip(runs, [*runs[1:], runs[-1]], strict=True):
        gone, new = gone + before[i:start], new + after[k:start_after]
        i, k = start + length, start_after + length
        if length < min(_CHANCE, max(len(gone), len(new)), max(following - i, following_after - k)):
            gone, new = gone + before[start:i], new + after[start_after:k]
            continue
        if gone:
            yield ("gone", gone)
        if new:
            yield ("new", new)
        if length:
            yield ("same", before[start:i])
        gone = new = ""


def _common_runs(before: str, after: str) -> list[tuple[int, int, int]]:
    """Return the runs of a longest common subsequence: where each begins in both, and its length.

    By the table of the subsequences' lengths of all that is left, a row at a time from the end: 10 ms for 1,000
    characters whatever they are (difflib takes a minute where they repeat), and 2 MB.
    """
    codes = [np.frombuffer(text[::-1].encode("utf-32-le", "surrogatepass"), dtype="<u4") for text in (before, after)]
    table = np.zeros((len(before) + 1, len(after) + 1), dtype=np.int16)
    for row, code in enumerate(codes[0]):
        longer = table[row, :-1] + (codes[1] == code)
        np.maximum.accumulate(np.maximum(table[row, 1:], longer), out=table[row + 1, 1:])
    left = table[::-1, ::-1]
    runs: list[tuple[int, int, int]] = []
    i = k = 0
    while i < len(before) and k < len(after):
        start = i, k
        while i < len(before) and k < len(after) and before[i] == after[k]:
            i, k = i + 1, k + 1
        if i > start[0]:
            runs.append((*start, i - start[0]))
        elif left[i + 1, k] >= left[i, k + 1]:
            i += 1
        else:
            k += 1
    return runs
