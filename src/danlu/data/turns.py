"""Conversations as token ids on disk, packed into rows: the chat counterpart of a shard folder.

Per split `<split>-ids.npy`, `<split>-scored.npy` (one entry a token), `<split>-ends.npy` (where each conversation
ends) and `<split>-rows.npy` (which conversations share a row: their numbers one after another, -1 after each row's
last); `tokenizer/`; `manifest.json`, written last. A conversation never crosses a row, and each row tells its
conversations apart by segments, so that none sees another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danlu import storage
from danlu.data.batches import Block
from danlu.data.chat import Conversation, Message
from danlu.data.dedup import normalised_hash
from danlu.data.template import ChatTemplate, Encoded
from danlu.errors import DataError
from danlu.types import IGNORED, BatchPlan

SPLITS = ("train", "validation")
FORMAT = "turns-1"
TooLong = Literal["drop", "split"]
_COPY, _TOO_LONG = "copy of another", "longer than the context"
_REASONS = (_COPY, _TOO_LONG)


@dataclass
class Counts:
    """How many conversations there were, how many were cut at a turn, and how many left out for which reason."""

    conversations: int = 0
    cut: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0))


@dataclass
class _Split:
    ids: list[np.ndarray] = field(default_factory=list[np.ndarray])
    scored: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def add(self, encoded: Encoded) -> None:
        self.ids.append(np.array(encoded.ids, np.int32))
        self.scored.append(np.array(encoded.scored, bool))


def prepare_turns(
    conversations: Iterable[Conversation],
    template: ChatTemplate,
    context: int,
    out: Path,
    validation_share: float = 0.05,
    too_long: TooLong = "drop",
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a folder of packed conversations and return its manifest.

    A conversation goes to the validation split by the hash of its first question, so that copies fall on one side; an
    exact copy of another is left out. One that does not fit into `context` + 1 tokens is dropped, or cut before a
    question (with `too_long="split"`); both are counted. Raises DataError where a split stays empty.
    """
    manifest: dict[str, Any] = {} if about is None else about
    splits, counts, seen = {name: _Split() for name in SPLITS}, Counts(), set[int]()
    with storage.new_folder(out, manifest) as scratch:
        for conversation in conversations:
            counts.conversations += 1
            whole = normalised_hash("\0".join(m.content for m in conversation.messages))
            if whole in seen:
                counts.dropped[_COPY] += 1
                continue
            seen.add(whole)
            question = next(m.content for m in conversation.messages if m.role == "user")
            held_out = normalised_hash(question) < validation_share * 2**64
            for encoded in _pieces(conversation, template, context + 1, too_long, counts):
                splits[SPLITS[held_out]].add(encoded)
        _require_both(splits, counts, context, validation_share)
        entries = {name: _write(scratch, name, split, context) for name, split in splits.items()}
        template.tokenizer.write_files(scratch / "tokenizer")
        address = hashlib.sha256(template.tokenizer.fingerprint.encode())
        for path in sorted(scratch.glob("*.npy")):
            address.update(storage.sha256_of(path).encode())
        manifest |= {
            "format": FORMAT,
            "fingerprint": template.tokenizer.fingerprint,
            "vocab_size": template.tokenizer.vocab_size,
            "eos_id": template.tokenizer.document_id,
            "context": context,
            "validation_share": validation_share,
            "too_long": too_long,
            **vars(counts),
            "splits": entries,
            "address": address.hexdigest(),
        }
    return manifest


def _pieces(
    conversation: Conversation, template: ChatTemplate, longest: int, too_long: TooLong, counts: Counts
) -> Iterator[Encoded]:
    """Yield a conversation, or what of it fits: from the first on, as many turns as go together."""
    encoded = template.encode(conversation.messages)
    if len(encoded.ids) <= longest:
        yield encoded
        return
    found = 0
    for turns in _cut(conversation.messages, template, longest) if too_long == "split" else ():
        found += 1
        yield template.encode(turns)
    counts.cut += found > 0
    counts.dropped[_TOO_LONG] += not found


def _cut(messages: Sequence[Message], template: ChatTemplate, longest: int) -> Iterator[list[Message]]:
    """Cut before questions into the longest runs that fit, each with the system message; a pair too long is lost."""
    system = [m for m in messages[:1] if m.role == "system"]
    said = list(messages[len(system) :])
    pairs = [said[at : at + 2] for at in range(0, len(said), 2)]
    held: list[Message] = []
    for pair in pairs:
        if held and len(template.encode([*system, *held, *pair]).ids) > longest:
            yield [*system, *held]
            held = []
        if held or len(template.encode([*system, *pair]).ids) <= longest:
            held += pair
    if held:
        yield [*system, *held]


def _require_both(splits: dict[str, _Split], counts: Counts, context: int, validation_share: float) -> None:
    copies, long = counts.dropped[_COPY], counts.dropped[_TOO_LONG]
    for name, split in splits.items():
        if not split.ids:
            raise DataError(
                f"the {name} split would be empty: of {counts.conversations:,} conversations {copies:,} are copies and "
                f"{long:,} do not fit into the context of {context:,} tokens. Give more, use --too-long split, or "
                f"raise --validation-share {validation_share:g}"
            )


def _write(folder: Path, name: str, split: _Split, context: int) -> dict[str, Any]:
    lengths = np.array([len(ids) for ids in split.ids])
    rows = pack(lengths - 1, context)
    arrays = {
        "ids": np.concatenate(split.ids),
        "scored": np.concatenate(split.scored),
        "ends": lengths.cumsum(),
        "rows": np.concatenate([[*row, -1] for row in rows]),
    }
    for key, array in arrays.items():
        np.save(folder / f"{name}-{key}.npy", array)
    return {
        "conversations": len(lengths),
        "tokens": int(lengths.sum()),
        "scored_tokens": int(arrays["scored"].sum()),
        "rows": len(rows),
        "filled": float((lengths - 1).sum() / (len(rows) * context)),
    }


def pack(lengths: np.ndarray, context: int) -> list[list[int]]:
    """Put items into as few rows of `context` as a greedy rule finds; return the items' numbers row by row.

    Longest first, each into the fullest row that still holds it. Rows alike are handled together, so that the work
    grows with the context and not with the number of items. Source: Krell et al. 2021, arXiv:2107.02027, section 3.
    """
    kinds: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    sizes, how_many = np.unique(lengths, return_counts=True)
    for length, count in zip(sizes[::-1].tolist(), how_many[::-1].tolist(), strict=True):
        while count:
            room = min((room for room, rows in kinds.items() if room >= length and rows), default=None)
            if room is None:
                each = max(1, context // max(1, length))
                for made, members in ((count // each, each), (1 if count % each else 0, count % each)):
                    if made:
                        kinds.setdefault(context - members * length, []).append(((length,) * members, made))
                break
            row, rows = kinds[room].pop()
            taken = min(rows, count)
            if rows > taken:
                kinds[room].append((row, rows - taken))
            kinds.setdefault(room - length, []).append(((*row, length), taken))
            count -= taken
    order = np.argsort(-lengths, kind="stable")
    queues = {int(length): iter(order[lengths[order] == length].tolist()) for length in sizes}
    return [
        [next(queues[length]) for length in row]
        for room in sorted(kinds)
        for row, rows in kinds[room]
        for _ in range(rows)
    ]


@dataclass(frozen=True)
class Packed:
    """One split's arrays, as memory maps."""

    ids: np.ndarray
    scored: np.ndarray
    ends: np.ndarray
    rows: np.ndarray

    @cached_property
    def row_ends(self) -> np.ndarray:
        """Return where each row's list of conversations ends."""
        return np.flatnonzero(self.rows == -1)

    def conversation(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a conversation's ids and which of them are scored."""
        start = int(self.ends[number - 1]) if number else 0
        part = slice(start, int(self.ends[number]))
        return self.ids[part].astype(np.int64), np.asarray(self.scored[part])

    def row(self, number: int) -> list[int]:
        """Return the numbers of the conversations that share a row."""
        start = int(self.row_ends[number - 1]) + 1 if number else 0
        return self.rows[start : int(self.row_ends[number])].tolist()


@dataclass(frozen=True)
class Turns:
    """An opened folder of packed conversations."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Return the tokenizer's number of entries."""
        return self.manifest["vocab_size"]

    @property
    def fingerprint(self) -> str:
        """Return the tokenizer's fingerprint."""
        return self.manifest["fingerprint"]

    @property
    def address(self) -> str:
        """Return a hash of all contents."""
        return self.manifest["address"]

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer that made it."""
        return self.folder / "tokenizer"

    @cached_property
    def _splits(self) -> dict[str, Packed]:
        def load(name: str, key: str) -> np.ndarray:
            return np.load(self.folder / f"{name}-{key}.npy", mmap_mode="r")

        return {name: Packed(*(load(name, key) for key in ("ids", "scored", "ends", "rows"))) for name in SPLITS}

    def split(self, name: str) -> Packed:
        """Return a split."""
        return self._splits[name]

    def blocks_per_epoch(self, plan: BatchPlan) -> int:
        """Count the rows of the training split."""
        return len(self.split("train").row_ends)

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return a row of the training split; what is left of it is filled with eos, not scored."""
        return self.row("train", number, plan.context)

    def row(self, name: str, number: int, context: int) -> Block:
        """Return a row of `context` tokens; its conversations are segments 1, 2, …, the rest is segment 0."""
        split = self.split(name)
        ids_L = np.full(context, self.manifest["eos_id"], np.int64)
        labels_L, segments_L = np.full(context, IGNORED, np.int64), np.zeros(context, np.int64)
        at = 0
        for segment, member in enumerate(split.row(number), 1):
            ids, scored = split.conversation(member)
            part = slice(at, at + len(ids) - 1)
            ids_L[part], segments_L[part] = ids[:-1], segment
            labels_L[part] = np.where(scored[1:], ids[1:], IGNORED)
            at += len(ids) - 1
        return Block(ids_L, labels_L, segments_L)


def open_turns(folder: Path) -> Turns:
    """Open and check a folder of packed conversations. Raises DataError where it is none, or damaged."""
    if not (folder / storage.MANIFEST).is_file():
        raise DataError(f"{folder}: is no folder of packed conversations")
    manifest = storage.verify(folder, DataError, contents=False)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{folder}: its manifest is not of packed conversations of this version")
    return Turns(folder, manifest)


@dataclass(frozen=True)
class WithReplay:
    """Conversations, and pretraining text in a stated share of all blocks: small models forget what they do not see."""

    turns: Turns
    text: Any
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

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return a row of conversations, or beyond these a block of text, taken evenly from all of it.

        Its documents do not see each other either: every row of a batch tells its segments apart, or none does.
        """
        rows = self.turns.blocks_per_epoch(plan)
        if number < rows:
            return self.turns.block(plan, number)
        wanted, there = self.blocks_per_epoch(plan) - rows, self.text.blocks_per_epoch(plan)
        return self.text.block(replace(plan, document_mask=True), (number - rows) * there // wanted % there)
