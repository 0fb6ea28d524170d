"""A mix: several sources in one shard folder, each passed its own number of times in an epoch of the whole.

Tokens lie on disk once, source after source. What is passed more often, or not whole, is a matter of which block
stands at which place of the order that training reads: arithmetic, nothing stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from danlu.config import Table
from danlu.configure import check, read_toml
from danlu.data.batches import interleave, shuffled
from danlu.types import BatchPlan


class MixedSource(Table):
    """One source of a mix, and how much of it training reads."""

    path: str = Field(min_length=1, description="file, folder, glob, set on a hub or name, as a verb takes it")
    name: str = Field(default="", description="what reports call it; by default its path")
    epochs: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="passes over it in an epoch of the mix; 0.5: every other"
    )
    weight: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="share of the training tokens, relative to the others'"
    )
    text_key: str | None = Field(default=None, description="key of its text, where it is not --text-key")
    txt_unit: Literal["file", "line", "blank"] | None = Field(default=None, description="where it is not --txt-unit")


class Mix(Table):
    """What a mix file says: a table [[source]] for each, all with `weight` or with `epochs` (1 where none is given)."""

    source: tuple[MixedSource, ...] = Field(strict=False, min_length=1, description="the sources, in order")

    @model_validator(mode="before")
    @classmethod
    def _names(cls, tables: dict[str, object]) -> dict[str, object]:
        rows = tables.get("source")
        if isinstance(rows, dict):
            raise ValueError("[source] is a single table. Write [[source]], with two brackets, above each source")
        if not isinstance(rows, list):
            return tables
        return {**tables, "source": [{"name": r.get("path"), **r} if isinstance(r, dict) else r for r in rows]}

    @model_validator(mode="after")
    def _goes_together(self) -> Mix:
        for row in self.source:
            if row.epochs is not None and row.weight is not None:
                raise ValueError(f"source {row.name!r}: has both epochs and weight. Give one of them")
            if (row.weight is None) != (self.source[0].weight is None):
                with_weight = row if row.weight is not None else self.source[0]
                raise ValueError(f"source {with_weight.name!r} has a weight, others none. Give all one, or all epochs")
        names = [row.name for row in self.source]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"source {twice!r}: is named twice. Say its epochs once, or give two names")
        return self

    def epochs(self, tokens: Sequence[int]) -> list[float]:
        """Return each source's passes in an epoch of the mix, given the training tokens that each has.

        Weights become the fewest passes that keep their proportion and leave no token out: one source is passed once.
        """
        if self.source[0].weight is None:
            return [1.0 if row.epochs is None else row.epochs for row in self.source]
        passes = [(row.weight or 0.0) / size for row, size in zip(self.source, tokens, strict=True)]
        return [each / min(passes) for each in passes]


def read_mix(path: Path) -> Mix:
    """Read a mix file. Raises ConfigError where it cannot be read or contradicts itself."""
    return check(Mix, read_toml(path, "Name a TOML file of [[source]] tables"), str(path))


@dataclass(frozen=True, slots=True)
class Part:
    """What one source has of the training split, and how often an epoch of the mix passes it."""

    tokens: range
    documents: int
    epochs: float = 1.0

    def blocks(self, plan: BatchPlan) -> int:
        """Count its blocks: windows of `context` tokens, or documents where rows are padded."""
        return self.documents if plan.packing == "padded" else -(-len(self.tokens) // plan.context)

    def per_epoch(self, plan: BatchPlan) -> int:
        """Count the blocks that an epoch of the mix reads of it: at least one."""
        return max(1, round(self.epochs * self.blocks(plan)))


@dataclass(frozen=True, slots=True)
class Parts:
    """All sources' parts, one after another; a folder without a mix has a single part.

    Blocks are numbered through all parts. In the order of training the sources alternate as evenly as whole blocks
    can, and each source's own blocks come pass after pass, every pass shuffled anew, whatever the mix's epochs are.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]], tokens: int, documents: int) -> Parts:
        """Read a manifest's `mix`; without entries, a single part of so many tokens and documents."""
        if not entries:
            return cls((Part(range(tokens), documents),))
        ends = list(accumulate(entry["train"]["tokens"] for entry in entries))
        rows = zip([0, *ends], ends, entries, strict=False)
        return cls(tuple(Part(range(a, b), row["train"]["documents"], row["epochs"]) for a, b, row in rows))

    def per_epoch(self, plan: BatchPlan) -> int:
        """Count the blocks of an epoch of the mix."""
        return sum(part.per_epoch(plan) for part in self.parts)

    def order(self, plan: BatchPlan, seed: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the blocks at the given places of the endless order."""
        numbers = np.empty_like(places)
        source, turn = interleave(places, [part.per_epoch(plan) for part in self.parts])
        for i, (first, part) in enumerate(zip(self._firsts(plan), self.parts, strict=True)):
            mine = source == i
            numbers[mine] = first + shuffled(turn[mine], part.blocks(plan), seed)
        return numbers

    def evenly(self, plan: BatchPlan, index: int, wanted: int) -> int:
        """Return the number of one of `wanted` blocks that are taken evenly from every source, in the mix's shares."""
        sizes = [part.per_epoch(plan) for part in self.parts]
        sources, turns = interleave(np.array([index]), sizes)
        i, turn = int(sources[0]), int(turns[0])
        blocks, of_these = self.parts[i].blocks(plan), max(1, wanted * sizes[i] // sum(sizes))
        return self._firsts(plan)[i] + turn * blocks // of_these % blocks

    def find(self, plan: BatchPlan, number: int) -> range:
        """Return where the tokens of a packed block lie: a part's last block may be short."""
        for first, part in zip(self._firsts(plan), self.parts, strict=True):
            if number < first + part.blocks(plan):
                start = (number - first) * plan.context
                return part.tokens[start : start + plan.context]
        raise IndexError(f"block {number} of {self.per_epoch(plan)}")

    def _firsts(self, plan: BatchPlan) -> list[int]:
        return [0, *accumulate(part.blocks(plan) for part in self.parts[:-1])]
