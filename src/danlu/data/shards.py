"""A shard folder: packed token ids on disk, opened as memory maps.

`train-00000.bin`, `validation-00000.bin`, …: little-endian uint16 (uint32 above 65,535 entries), documents ended by
eos; `tokenizer/`: the tokenizer they were made with; `manifest.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from danlu import storage
from danlu.data.batches import Block
from danlu.data.mix import Parts
from danlu.errors import DataError
from danlu.tokenizer import TOKENIZER_JSON
from danlu.types import IGNORED, BatchPlan

SPLITS = ("train", "validation")
FORMAT = 1
_TOKENS_PER_FILE = 1 << 27


class SplitWriter:
    """Appends documents to one split's files; counts and hashes as it goes."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], eos_id: int):
        self._folder, self._split, self._dtype, self._eos = folder, split, dtype, eos_id
        self._file: BinaryIO | None = None
        self._in_file = 0
        self._hashes: list[Any] = []
        self.tokens = self.documents = self.characters = self.bytes = 0

    def add(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> None:
        """Append documents, each ended by eos."""
        eos = np.array([self._eos], dtype=np.uint32)
        flat = np.concatenate([part for row in ids for part in (row, eos)]).astype(self._dtype)
        if self._file is None or self._in_file >= _TOKENS_PER_FILE:
            self._next_file()
        assert self._file is not None
        data = flat.tobytes()
        self._file.write(data)
        self._hashes[-1].update(data)
        self._in_file += len(flat)
        self.tokens += len(flat)
        self.documents += len(texts)
        self.characters += sum(map(len, texts))
        self.bytes += sum(len(text.encode()) for text in texts)

    def _next_file(self) -> None:
        self.close()
        self._file = (self._folder / f"{self._split}-{len(self._hashes):05d}.bin").open("wb")
        self._hashes.append(hashlib.sha256())
        self._in_file = 0

    def close(self) -> None:
        """Close the file being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def counts(self) -> dict[str, int]:
        """Return what was written so far."""
        return {name: getattr(self, name) for name in ("tokens", "documents", "characters", "bytes")}

    def counts_since(self, before: dict[str, int]) -> dict[str, int]:
        """Return what was written since `before`."""
        return {name: count - before[name] for name, count in self.counts().items()}

    def summary(self) -> dict[str, Any]:
        """Return this split's entry of the manifest."""
        return {
            "files": [f"{self._split}-{i:05d}.bin" for i in range(len(self._hashes))],
            **self.counts(),
            "sha256s": [h.hexdigest() for h in self._hashes],
        }


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split as one array, though they lie in several files."""

    parts: tuple[np.ndarray, ...]
    eos_id: int
    documents_count: int
    characters: int
    bytes: int
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        sizes = np.cumsum([0, *(len(part) for part in self.parts)])
        object.__setattr__(self, "starts", sizes)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start … stop as int64; both must lie within the stream."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        pieces: list[np.ndarray] = []
        while start < stop:
            offset = int(self.starts[first])
            piece = self.parts[first][start - offset : stop - offset]
            pieces.append(piece)
            start, first = start + len(piece), first + 1
        joined = np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
        return joined.astype(np.int64)

    @cached_property
    def ends(self) -> np.ndarray:
        """Return the position of every document's eos."""
        found = [
            np.flatnonzero(part == self.eos_id) + start for part, start in zip(self.parts, self.starts, strict=False)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def documents(self) -> Iterator[np.ndarray]:
        """Yield each document's tokens, eos left out."""
        start = 0
        for end in self.ends.tolist():
            yield self.read(start, end) if end > start else np.zeros(0, np.int64)
            start = end + 1


@dataclass(frozen=True)
class Prepared:
    """An opened folder of token ids with the tokenizer that made them: shards, or packed conversations."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Return the tokenizer's number of entries."""
        return self.manifest["vocab_size"]

    @property
    def eos_id(self) -> int:
        """Return the id that ends a document."""
        return self.manifest["eos_id"]

    @property
    def fingerprint(self) -> str:
        """Return the tokenizer's fingerprint."""
        return self.manifest["fingerprint"]

    @property
    def address(self) -> str:
        """Return a hash of all contents: two folders with one address hold the same tokens."""
        return self.manifest["address"]

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer that made it."""
        return self.folder / "tokenizer"

    def require_own_tokenizer(self, remedy: str) -> None:
        """Raise DataError, with the remedy, where the tokenizer beside it is missing or another one."""
        path = self.tokenizer_folder / TOKENIZER_JSON
        if not path.is_file():
            raise DataError(f"{path}: is missing. {remedy}")
        found = storage.sha256_of(path)
        if found != self.fingerprint:
            raise DataError(
                f"{path}: is another tokenizer ({found[:12]}…) than the one that made the folder "
                f"({self.fingerprint[:12]}…). {remedy}"
            )


@dataclass(frozen=True)
class Shards(Prepared):
    """An opened shard folder."""

    @cached_property
    def _streams(self) -> dict[str, TokenStream]:
        return {name: self._open(name) for name in SPLITS}

    def split(self, name: str) -> TokenStream:
        """Return a split's tokens."""
        return self._streams[name]

    @cached_property
    def parts(self) -> Parts:
        """Return what each source of a mix has of the training split; without a mix, one part."""
        train = self.split("train")
        return Parts.of(self.manifest.get("mix", ()), len(train), train.documents_count)

    def blocks_per_epoch(self, plan: BatchPlan) -> int:
        """Count the training text's blocks: windows of `context` tokens, or documents where rows are padded.

        Of a mix, those that an epoch of it reads.
        """
        return self.parts.per_epoch(plan)

    def order(self, plan: BatchPlan, seed: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the blocks at the given places of the order that a run reads."""
        return self.parts.order(plan, seed, places)

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return one of them; with `document_mask`, a document's segment begins at the eos before it.

        The stream t[0], t[1], … of each source is cut into blocks of L = `context` tokens. Block b scores t[bL] …
        t[bL+L-1], each predicted from the token before it (eos before the first), so every token is scored exactly
        once a pass. A padded row is one document and its eos, cut to `context`, as the article does.
        """
        train = self.split("train")
        if plan.packing == "padded":
            start = int(train.ends[number - 1]) + 1 if number else 0
            stop = min(int(train.ends[number]) + 1, start + plan.context)
            before = np.array([self.eos_id])
        else:
            tokens = self.parts.find(plan, number)
            start, stop = tokens.start, tokens.stop
            before = train.read(start - 1, start) if start else np.array([self.eos_id])
        labels, missing = train.read(start, stop), plan.context - (stop - start)
        ids_L = np.concatenate([before, labels[:-1], np.full(missing, self.eos_id)])
        labels_L = np.concatenate([labels, np.full(missing, IGNORED)])
        return Block(ids_L, labels_L, (ids_L == self.eos_id).cumsum() if plan.document_mask else None)

    def _open(self, name: str) -> TokenStream:
        entry = self.manifest["splits"][name]
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        parts = tuple(np.memmap(self.folder / file, dtype=dtype, mode="r") for file in entry["files"])
        return TokenStream(parts, self.eos_id, entry["documents"], entry["characters"], entry["bytes"])


def address_of(fingerprint: str, splits: dict[str, Any], mix: Sequence[dict[str, Any]] = ()) -> str:
    """Hash the tokenizer's fingerprint, every file's sha256, and of a mix how much of each source is read."""
    parts = [fingerprint, *(digest for name in SPLITS for digest in splits[name]["sha256s"])]
    parts += [json.dumps([entry["epochs"], entry["train"]], sort_keys=True) for entry in mix]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_shards(folder: Path) -> Shards:
    """Open a shard folder; check that every file has its recorded size and that its tokenizer is the one that made it.

    Raises DataError where there is none, it is of another kind, or a file is missing, truncated or another one.
    """
    if not (folder / storage.MANIFEST).is_file():
        raise DataError(f"{folder}: is no shard folder. Make one: danlu prepare SRC --tokenizer DIR --out {folder}")
    manifest = storage.verify(
        folder, DataError, contents=False, skip=lambda name: name == f"tokenizer/{TOKENIZER_JSON}"
    )
    if manifest.get("format") != FORMAT or "splits" not in manifest:
        raise DataError(f"{folder}: its manifest is not of a shard folder of this version. Prepare it again")
    shards = Shards(folder, manifest)
    again = f"danlu prepare SRC --tokenizer DIR --out {folder}"
    shards.require_own_tokenizer(f"Put its own back, or remove {folder} and make it again: {again}")
    return shards
