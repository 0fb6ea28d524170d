"""Conversations to packed rows: encoded by the chat template, split by hash, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.lib import format as npy

from danlu import storage
from danlu.data.chat import Conversation, Message, Preference, first_question, words
from danlu.data.dedup import ExactDedup, normalised_hash
from danlu.data.shards import SPLITS
from danlu.data.template import ChatTemplate, Encoded
from danlu.data.turns import FORMAT, HELD_OUT
from danlu.errors import DataError, TokenizerError

TooLong = Literal["drop", "split"]
Piece = tuple[Sequence[Message], Encoded]
"""Turns, and the same as ids."""
_COPY, _TOO_LONG = "copy of another", "longer than the context"
_REASONS = (_COPY, _TOO_LONG)


@dataclass
class Counts:
    """How many conversations there were, how many were cut at a turn, and how many left out for which reason."""

    conversations: int = 0
    cut: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0))


class _Column:
    """A one-dimensional `.npy` file that grows; its header tells the length, so it is written again at the end."""

    def __init__(self, path: Path, dtype: type):
        self._file, self._dtype, self.length = path.open("wb"), np.dtype(dtype), 0

    def __enter__(self) -> _Column:
        self._write_header()
        return self

    def add(self, values: Any) -> None:
        """Append values."""
        self._file.write(np.asarray(values, self._dtype).tobytes())
        self.length += len(values)

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        """Write it; numpy leaves room in it for whatever length, so the values stay where they are."""
        described = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self._file, described)


class _Split:
    """One split's arrays, written as its conversations come."""

    def __init__(self, folder: Path, name: str, files: ExitStack):
        self._ids, self._scored, self._ends = (
            files.enter_context(_Column(folder / f"{name}-{key}.npy", dtype))
            for key, dtype in (("ids", np.int32), ("scored", np.bool_), ("ends", np.int64))
        )
        self.scored_tokens = 0

    @property
    def conversations(self) -> int:
        """Count its conversations."""
        return self._ends.length

    def add(self, encoded: Encoded) -> None:
        """Append a conversation."""
        self._ids.add(encoded.ids)
        self._scored.add(encoded.scored)
        self._ends.add([self._ids.length])
        self.scored_tokens += sum(encoded.scored)


def prepare_turns(
    records: Iterable[Conversation | Preference],
    template: ChatTemplate,
    context: int,
    out: Path,
    validation_share: float = 0.05,
    too_long: TooLong = "drop",
    about: dict[str, Any] | None = None,
    bad: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write a folder of packed conversations, or of preferences alone, and return its manifest.

    A record goes to the validation split by the hash of its first question, so that copies fall on one side; an exact
    copy of another is left out. A conversation that does not fit into `context` + 1 tokens is dropped, or cut before a
    question (with `too_long="split"`); both are counted. Of a preference both sides must fit; they share a row of twice
    the context. Raises DataError where a split stays empty, or a record cannot be encoded: `bad`, if given, is told of
    it instead, and may let it be passed over.

    Memory: some 40 bytes a conversation at most; tokens go to the disk as they come.
    """
    manifest: dict[str, Any] = {} if about is None else about
    counts = Counts()
    with storage.new_folder(out, manifest) as scratch:
        with ExitStack() as files:
            splits = {name: _Split(scratch, name, files) for name in SPLITS}
            asked = files.enter_context((scratch / HELD_OUT).open("w", encoding="utf-8"))
            together = 1
            for record, pieces in _encoded(records, template, context, too_long, counts, bad or _refuse):
                held_out = normalised_hash(first_question(record.said)) < validation_share * 2**64
                together = len(record.sides)
                for number, (messages, encoded) in enumerate(pieces):
                    splits[SPLITS[held_out]].add(encoded)
                    if held_out and number % together == 0:
                        turns = [{"role": m.role, "content": m.content} for m in messages]
                        asked.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
        _require_both(splits, counts, context, validation_share)
        entries = {name: _write_rows(scratch, name, split, context, together) for name, split in splits.items()}
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


def _encoded(
    records: Iterable[Conversation | Preference],
    template: ChatTemplate,
    context: int,
    too_long: TooLong,
    counts: Counts,
    bad: Callable[[str], None],
) -> Iterator[tuple[Conversation | Preference, list[Piece]]]:
    """Yield each record, and what of it is kept."""
    seen = ExactDedup()
    for record in records:
        is_new = seen.is_new(words(record.said))
        try:
            pieces = list(_pieces(record, template, context, too_long, counts)) if is_new else []
        except (DataError, TokenizerError) as error:
            bad(f"{record.source}, record {record.id}: {error}")
            continue
        counts.conversations += 1
        counts.dropped[_COPY] += not is_new
        yield record, pieces


def _refuse(message: str) -> NoReturn:
    raise DataError(message)


def _pieces(
    record: Conversation | Preference, template: ChatTemplate, context: int, too_long: TooLong, counts: Counts
) -> Iterator[Piece]:
    """Yield a conversation, or what of it fits: from the first on, as many turns as go together; or a pair's sides."""
    encoded = template.encode_sides(record)
    if all(len(side.ids) - 1 <= context for side in encoded):
        yield from zip(record.sides, encoded, strict=True)
        return
    found = 0
    for turns in _cut(record.sides[0], template, context + 1) if too_long == "split" and len(encoded) == 1 else ():
        found += 1
        yield turns, template.encode(turns)
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
        if not split.conversations:
            raise DataError(
                f"the {name} split would be empty: of {counts.conversations:,} conversations {copies:,} are copies and "
                f"{long:,} do not fit into the context of {context:,} tokens. Give more, use --too-long split, or "
                f"raise --validation-share {validation_share:g}"
            )


def _write_rows(folder: Path, name: str, split: _Split, context: int, together: int) -> dict[str, Any]:
    """Pack a split's conversations into rows, each `together` of them into one; return its entry of the manifest."""
    ends = np.load(folder / f"{name}-ends.npy")
    tokens = int(ends[-1])
    lengths = np.diff(ends, prepend=0).astype(np.int32) - 1
    del ends
    rows = 0
    with _Column(folder / f"{name}-rows.npy", np.int64) as column:
        for groups in pack(lengths.reshape(-1, together).sum(1), context * together):
            rows += len(groups)
            block = (groups[..., None] * together + np.arange(together)).reshape(len(groups), -1)
            column.add(np.pad(block, ((0, 0), (0, 1)), constant_values=-1).ravel())
    return {
        "conversations": split.conversations,
        "tokens": tokens,
        "scored_tokens": split.scored_tokens,
        "rows": rows,
        "filled": (tokens - split.conversations) / (rows * context * together),
    }


def pack(lengths: np.ndarray, context: int) -> Iterator[np.ndarray]:
    """Put items into as few rows of `context` as a greedy rule finds; yield blocks of rows: the items' numbers.

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
    starts = len(lengths) - how_many.cumsum()  # where the items of each size begin in `order`
    next_of = dict(zip(sizes.tolist(), starts.tolist(), strict=True))
    for room in sorted(kinds):
        for row, rows in kinds[room]:
            columns: list[np.ndarray] = []
            for length, members in Counter(row).items():
                at = next_of[length]
                next_of[length] += rows * members
                columns.append(order[at : next_of[length]].reshape(rows, members))
            yield np.concatenate(columns, axis=1)
