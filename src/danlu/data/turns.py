"""Conversations as token ids on disk, packed into rows: the chat counterpart of a shard folder.

Per split `<split>-ids.npy`, `<split>-scored.npy` (one entry a token), `<split>-ends.npy` (where each conversation
ends) and `<split>-rows.npy` (which conversations share a row: their numbers one after another, -1 after each row's
last); `validation.jsonl`, the held-out conversations as text; `tokenizer/`; `manifest.json`, written last. A
conversation never crosses a row, and each row tells its conversations apart by segments, so that none sees another.
Of preferences, each two conversations are a pair, chosen and rejected, one after the other in one row; what their
tokens cost the reference model comes as `<split>-reference.npy` when a run begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from danlu import storage
from danlu.data.batches import Block, shuffled
from danlu.data.shards import SPLITS, Prepared, Shards
from danlu.errors import DataError
from danlu.tokenizer import TOKENIZER_JSON
from danlu.types import IGNORED, BatchPlan

FORMAT, HELD_OUT = "turns-1", "validation.jsonl"
ARRAYS, REFERENCE = ("ids", "scored", "ends", "rows"), "reference"


@dataclass(frozen=True)
class Packed:
    """One split's arrays, as memory maps."""

    ids: np.ndarray
    scored: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    reference: np.ndarray | None = None

    @cached_property
    def row_ends(self) -> np.ndarray:
        """Return where each row's list of conversations ends."""
        return np.flatnonzero(self.rows == -1)

    def tokens(self, number: int) -> slice:
        """Return where a conversation's tokens lie."""
        return slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))

    def row(self, number: int) -> list[int]:
        """Return the numbers of the conversations that share a row."""
        start = int(self.row_ends[number - 1]) + 1 if number else 0
        return self.rows[start : int(self.row_ends[number])].tolist()


@dataclass(frozen=True)
class Turns(Prepared):
    """An opened folder of packed conversations."""

    @cached_property
    def _splits(self) -> dict[str, Packed]:
        def load(name: str, key: str) -> np.ndarray | None:
            path = self.folder / f"{name}-{key}.npy"
            return None if key == REFERENCE and not path.is_file() else np.load(path, mmap_mode="r")

        return {name: Packed(*(load(name, key) for key in (*ARRAYS, REFERENCE))) for name in SPLITS}  # pyright: ignore

    def split(self, name: str) -> Packed:
        """Return a split."""
        return self._splits[name]

    def blocks_per_epoch(self, plan: BatchPlan) -> int:
        """Count the rows of the training split."""
        return len(self.split("train").row_ends)

    def order(self, plan: BatchPlan, seed: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows at the given places of the order that a run reads."""
        return shuffled(places, self.blocks_per_epoch(plan), seed)

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return a row of the training split; what is left of it is filled with eos, not scored."""
        return self.row("train", number, plan.context)

    def row(self, name: str, number: int, context: int) -> Block:
        """Return a row of `context` tokens; its conversations are segments 1, 2, …, the rest is segment 0."""
        split = self.split(name)
        ids_L = np.full(context, self.eos_id, np.int64)
        labels_L, segments_L = np.full(context, IGNORED, np.int64), np.zeros(context, np.int64)
        reference_L = None if split.reference is None else np.zeros(context, np.float32)
        for segment, (member, part) in enumerate(self.places(name, number), 1):
            tokens = split.tokens(member)
            after = slice(tokens.start + 1, tokens.stop)
            ids_L[part], segments_L[part] = split.ids[tokens][:-1], segment
            labels_L[part] = np.where(split.scored[after], split.ids[after], IGNORED)
            if reference_L is not None and split.reference is not None:
                reference_L[part] = split.reference[after]
        return Block(ids_L, labels_L, segments_L, reference_L)

    def places(self, name: str, number: int) -> Iterator[tuple[int, slice]]:
        """Yield the conversations of a row, each with where in it its inputs stand."""
        split, at = self.split(name), 0
        for member in split.row(number):
            tokens = split.tokens(member)
            stop = at + tokens.stop - tokens.start - 1
            yield member, slice(at, stop)
            at = stop

    def write_reference(self, name: str, reference: np.ndarray) -> None:
        """Keep what every token of a split costs the reference model, in nats."""
        path = self.folder / f"{name}-{REFERENCE}.npy"
        with storage.replacing(path) as scratch, scratch.open("wb") as file:
            np.save(file, reference)
        self.__dict__.pop("_splits", None)


def open_turns(folder: Path) -> Turns:
    """Open and check a folder of packed conversations. Raises DataError where it is none, or damaged."""
    if not (folder / storage.MANIFEST).is_file():
        raise DataError(f"{folder}: is no folder of packed conversations")
    own = f"tokenizer/{TOKENIZER_JSON}"
    manifest = storage.verify(folder, DataError, contents=False, skip=lambda name: name == own)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{folder}: its manifest is not of packed conversations of this version")
    turns = Turns(folder, manifest)
    turns.require_own_tokenizer("Put its own back, or pack again: danlu finetune into a new --out")
    return turns


@dataclass(frozen=True)
class WithReplay:
    """Conversations, and pretraining text in a stated share of all blocks: small models forget what they do not see."""

    turns: Turns
    text: Shards
    share: float

    @property
    def vocab_size(self) -> int:
        """Return the tokenizer's number of entries."""
        return self.turns.vocab_size

    @property
    def address(self) -> str:
        """Return a hash of all contents."""
        parts = f"{self.turns.address}\n{self.text.address}\n{self.share}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def blocks_per_epoch(self, plan: BatchPlan) -> int:
        """Count the rows of conversations and the blocks of text beside them."""
        rows = self.turns.blocks_per_epoch(plan)
        return rows + round(rows * self.share / (1 - self.share))

    def order(self, plan: BatchPlan, seed: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the blocks at the given places of the order that a run reads."""
        return shuffled(places, self.blocks_per_epoch(plan), seed)

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return a row of conversations, or beyond these a block of text, taken evenly from all of it.

        Its documents do not see each other either: every row of a batch tells its segments apart, or none does.
        """
        rows = self.turns.blocks_per_epoch(plan)
        if number < rows:
            return self.turns.block(plan, number)
        chosen = self.text.parts.evenly(plan, number - rows, self.blocks_per_epoch(plan) - rows)
        return self.text.block(replace(plan, document_mask=True), chosen)
