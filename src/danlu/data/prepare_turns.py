"""Conversations to packed rows: encoded by the chat template, split by hash, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danlu import storage
from danlu.data.chat import Conversation, Message, Messages, Preference
from danlu.data.dedup import normalised_hash
from danlu.data.shards import SPLITS
from danlu.data.template import ChatTemplate, Encoded
from danlu.data.turns import FORMAT
from danlu.errors import DataError

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
    records: Iterable[Conversation | Preference],
    template: ChatTemplate,
    context: int,
    out: Path,
    validation_share: float = 0.05,
    too_long: TooLong = "drop",
    about: dict[str, Any] | None = None,
    bad: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Write a folder of packed conversations, or of preferences alone, and return its manifest.

    A record goes to the validation split by the hash of its first question, so that copies fall on one side; an exact
    copy of another is left out. A conversation that does not fit into `context` + 1 tokens is dropped, or cut before a
    question (with `too_long="split"`); both are counted. Of a preference both sides must fit, and share a row of twice
    the context. Raises DataError where a split stays empty, and, unless `bad` is told, for a record that the template
    fails on.
    """
    manifest: dict[str, Any] = {} if about is None else about
    splits, counts, seen = {name: _Split() for name in SPLITS}, Counts(), set[int]()
    together = 1
    with storage.new_folder(out, manifest) as scratch:
        for record in records:
            counts.conversations += 1
            together = 2 if isinstance(record, Preference) else 1
            if not _is_new(record, seen):
                counts.dropped[_COPY] += 1
                continue
            split = splits[SPLITS[normalised_hash(_question(record)) < validation_share * 2**64]]
            try:
                for encoded in _pieces(record, template, context, too_long, counts):
                    split.add(encoded)
            except DataError as error:
                message = f"{record.source}, record {record.id}: {error}"
                if bad is None:
                    raise DataError(message) from None
                bad(message)
        _require_both(splits, counts, context, validation_share)
        entries = {name: _write(scratch, name, split, context, together) for name, split in splits.items()}
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


def _sides(record: Conversation | Preference) -> list[Messages]:
    """Return the conversations that a record holds."""
    if isinstance(record, Conversation):
        return [record.messages]
    return [record.prompt + record.chosen, record.prompt + record.rejected]


def _question(record: Conversation | Preference) -> str:
    return next(m.content for m in _sides(record)[0] if m.role == "user")


def _is_new(record: Conversation | Preference, seen: set[int]) -> bool:
    whole = normalised_hash("\0".join(m.content for side in _sides(record) for m in side))
    is_new = whole not in seen
    seen.add(whole)
    return is_new


def _pieces(
    record: Conversation | Preference, template: ChatTemplate, context: int, too_long: TooLong, counts: Counts
) -> Iterator[Encoded]:
    """Yield a conversation, or what of it fits: from the first on, as many turns as go together; or a pair's sides."""
    encoded = [template.encode(side) for side in _sides(record)]
    if all(len(side.ids) - 1 <= context for side in encoded):
        asked = len(template.prompt(record.prompt)) if isinstance(record, Preference) else 0
        for side in encoded:  # of a pair the last answers are compared, not what both have said before
            yield Encoded(side.ids, [False] * asked + side.scored[asked:])
        return
    found = 0
    for turns in _cut(_sides(record)[0], template, context + 1) if too_long == "split" and len(encoded) == 1 else ():
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


def _write(folder: Path, name: str, split: _Split, context: int, together: int) -> dict[str, Any]:
    """Write a split, each `together` conversations into one row."""
    lengths = np.array([len(ids) for ids in split.ids])
    groups = pack((lengths - 1).reshape(-1, together).sum(1), context * together)
    rows = [[group * together + side for group in row for side in range(together)] for row in groups]
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
        "filled": float((lengths - 1).sum() / (len(rows) * context * together)),
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
