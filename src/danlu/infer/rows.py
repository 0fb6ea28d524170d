"""The cache's rows and who has them: first those that write, then those that read a prompt, then the free ones.

A free row keeps the ids whose keys and values it holds: a prompt that begins alike need not read these again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from danlu.infer.reply import Reply
from danlu.model.cache import Cache

WORTH_COPYING = 32
"""A common beginning of fewer tokens is read again rather than copied from a row that is in use."""


@dataclass(slots=True, eq=False)
class Row:
    """A row of the cache: the ids it holds, the answer it works on, and when it was taken last."""

    ids: list[int] = field(default_factory=list)
    reply: Reply | None = None
    taken: int = 0

    @property
    def stopped(self) -> bool:
        """Tell whether its answer has ended."""
        return self.reply is None or bool(self.reply.stopped)

    @property
    def unread(self) -> Sequence[int]:
        """Return what is left of its prompt."""
        return () if self.reply is None else self.reply.request.ids[len(self.ids) :]

    def shares(self, ids: Sequence[int]) -> int:
        """Count the first tokens that are the same."""
        return shared(self.ids, ids)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the first tokens that two sequences have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Rows:
    """Rows change places, so that those of one kind lie side by side in memory and are computed at once."""

    def __init__(self, cache: Cache):
        self._cache = cache
        self._rows = [Row() for _ in cache.lengths]
        self._writing = self._reading = self._taken = 0

    @property
    def writing(self) -> list[Row]:
        """Return the rows whose prompt has been read."""
        return self._rows[: self._writing]

    @property
    def reading(self) -> list[Row]:
        """Return the rows whose prompt is being read."""
        return self._rows[self._writing : self._used]

    @property
    def free(self) -> int:
        """Count the rows that nobody has."""
        return len(self._rows) - self._used

    @property
    def _used(self) -> int:
        return self._writing + self._reading

    def cache_of_writing(self) -> Cache:
        """Return the cache of the rows that write."""
        return self._cache.rows(0, [len(row.ids) for row in self.writing])

    def cache_of_reading(self) -> Cache:
        """Return the cache of the rows that read."""
        return self._cache.rows(self._writing, [len(row.ids) for row in self.reading])

    def take(self, reply: Reply) -> None:
        """Let an answer have a free row, best one that holds the beginning of its prompt, or that can copy it.

        The prompt's last token is read in any case, and all of them where it is to be scored: their logits are wanted.
        """
        ids = () if reply.request.score_prompt else reply.request.ids[:-1]
        found = [row.shares(ids) for row in self._rows]
        free = range(self._used, len(self._rows))
        best = max(free, key=lambda i: (found[i], -self._rows[i].taken))
        giver = max(range(len(found)), key=found.__getitem__)
        if found[giver] - found[best] >= WORTH_COPYING:
            best = min(free, key=lambda i: self._rows[i].taken)
            self._cache.copy(giver, best, found[giver])
            found[best] = found[giver]
        self._taken += 1
        row = self._rows[best]
        row.ids, row.reply, row.taken = list(ids[: found[best]]), reply, self._taken
        self._swap(best, self._used)
        self._reading += 1

    def begin_to_write(self) -> None:
        """Let the rows that read write from now on."""
        self._writing, self._reading = self._used, 0

    def release(self) -> None:
        """Free the rows of answers that have ended."""
        for i in reversed(range(self._writing, self._used)):
            if self._rows[i].stopped:
                self._rows[i].reply = None
                self._swap(i, self._used - 1)
                self._reading -= 1
        for i in reversed(range(self._writing)):
            if self._rows[i].stopped:
                self._rows[i].reply = None
                self._swap(i, self._writing - 1)
                self._swap(self._writing - 1, self._used - 1)
                self._writing -= 1

    def forget(self) -> None:
        """Take what all rows hold for lost."""
        for row in self._rows:
            row.ids = []

    def _swap(self, one: int, other: int) -> None:
        rows = self._rows
        if one != other:
            self._cache.swap(one, other, max(len(rows[one].ids), len(rows[other].ids)))
            rows[one], rows[other] = rows[other], rows[one]
