"""Documents to shards: split by hash, tokenised in batches on all cores, written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from danlu import log, storage
from danlu.data.dedup import normalised_hash
from danlu.data.passages import Passages
from danlu.data.shards import FORMAT, SPLITS, SplitWriter, address_of
from danlu.errors import DataError
from danlu.tokenizer import PROBES, Tokenizer
from danlu.types import Document

_BATCH_CHARACTERS = 1 << 20
_CHECKED_DOCUMENTS = 200


def prepare(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    out: Path,
    validation_share: float = 0.05,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a shard folder and return its manifest; `about` is filled in while documents stream and stored with it.

    A document goes to the validation split by the hash of its normalised text, so duplicates fall on one side.
    Few or very long documents (a novel, say) are cut into passages first (see `Passages`). The manifest's `cut` counts
    the documents that were, its `lossless` says whether the tokenizer gives every text back. Raises DataError where a
    split stays empty.
    """
    started = time.monotonic()
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    manifest: dict[str, Any] = {} if about is None else about
    with storage.new_folder(out, manifest) as scratch:
        writers = {split: SplitWriter(scratch, split, dtype, tokenizer.document_id) for split in SPLITS}
        passages = Passages(documents)
        batches = _batches(passages)
        first = next(batches, [])
        lossless = _check_lossless(tokenizer, first[:_CHECKED_DOCUMENTS])
        for batch in chain([first], batches):
            _write(batch, tokenizer, writers, validation_share)
        for writer in writers.values():
            writer.close()
        splits = {name: writer.summary() for name, writer in writers.items()}
        _require_both(splits, validation_share)
        tokenizer.write_files(scratch / "tokenizer")
        manifest |= {
            "format": FORMAT,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.document_id,
            "dtype": dtype.name,
            "validation_share": validation_share,
            "cut": passages.cut,
            "lossless": lossless,
            "splits": splits,
            "address": address_of(tokenizer.fingerprint, splits),
            "seconds": round(time.monotonic() - started, 3),
        }
    return manifest


def _write(
    batch: list[Document], tokenizer: Tokenizer, writers: dict[str, SplitWriter], validation_share: float
) -> None:
    ids = tokenizer.encode_batch([d.text for d in batch])
    held_out = [normalised_hash(d.text) < validation_share * 2**64 for d in batch]
    for split, wanted in (("train", False), ("validation", True)):
        chosen = [i for i, held in enumerate(held_out) if held is wanted]
        if chosen:
            writers[split].add([batch[i].text for i in chosen], [ids[i] for i in chosen])


def _check_lossless(tokenizer: Tokenizer, documents: list[Document]) -> bool:
    """Return whether the tokenizer gives every text back; if not, say what it changes, and how many of these."""
    lost = tokenizer.changed(PROBES)
    if lost:
        before, after = lost[0]
        count = len(tokenizer.changed([d.text for d in documents]))
        log.say(
            f"the tokenizer does not give every text back: {before!r} becomes {after!r}. It changes {count:,} of the "
            f"first {len(documents):,} documents; bits per character leave out what it loses"
        )
    return not lost


def _require_both(splits: dict[str, Any], validation_share: float) -> None:
    for name, entry in splits.items():
        if not entry["documents"]:
            count = sum(s["documents"] for s in splits.values())
            advice = "Give more text" if name == "train" or count < 20 else "Raise --validation-share"
            raise DataError(
                f"the {name} split would be empty: {count:,} documents, --validation-share {validation_share:g}. "
                f"{advice}"
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
