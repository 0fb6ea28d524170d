"""Documents to shards: split by hash, tokenised in batches on all cores, written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu import log, storage
from danlu.data.dedup import normalised_hash
from danlu.data.encode import Encode, bulk_encoder
from danlu.data.mix import Mix
from danlu.data.passages import Passages
from danlu.data.shards import FORMAT, SPLITS, SplitWriter, address_of
from danlu.errors import DataError
from danlu.tokenizer import PROBES, Tokenizer
from danlu.types import Document

_BATCH_CHARACTERS = 1 << 20
_CHECKED_DOCUMENTS = 200


@dataclass(frozen=True)
class Portion:
    """What one source gives: its documents, and its entry of the manifest, filled in while they stream."""

    documents: Iterable[Document]
    entry: dict[str, Any] = field(default_factory=dict[str, Any])


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
    return prepare_mix([Portion(documents)], None, tokenizer, out, validation_share, about)


def prepare_mix(
    portions: Sequence[Portion],
    mix: Mix | None,
    tokenizer: Tokenizer,
    out: Path,
    validation_share: float = 0.05,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the sources of a mix one after another, each once, as `prepare` does; without a mix there is one portion.

    The manifest's `mix` holds every portion's entry: `train` and `validation` (tokens, documents, characters),
    `epochs`, and `share` of the training tokens; `epoch_tokens` is what an epoch of the mix reads.
    Raises DataError, too, for a source that leaves nothing to train on.
    """
    started = time.monotonic()
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    manifest: dict[str, Any] = {} if about is None else about
    with storage.new_folder(out, manifest) as scratch:
        writers = {split: SplitWriter(scratch, split, dtype, tokenizer.document_id) for split in SPLITS}
        encode, cut, lossless = bulk_encoder(tokenizer), 0, None
        for portion in portions:
            before = {split: writer.counts() for split, writer in writers.items()}
            passages = Passages(portion.documents)
            for batch in _batches(passages):
                if lossless is None:
                    lossless = _check_lossless(tokenizer, batch[:_CHECKED_DOCUMENTS])
                _write(batch, encode, writers, validation_share)
            cut += passages.cut
            portion.entry.update({split: writer.counts_since(before[split]) for split, writer in writers.items()})
        for writer in writers.values():
            writer.close()
        splits = {name: writer.summary() for name, writer in writers.items()}
        _require_both(splits, validation_share)
        entries = [] if mix is None else _planned([portion.entry for portion in portions], mix)
        tokenizer.write_files(scratch / "tokenizer")
        manifest |= {
            "format": FORMAT,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.document_id,
            "dtype": dtype.name,
            "validation_share": validation_share,
            "cut": cut,
            "lossless": lossless,
            "splits": splits,
            "address": address_of(tokenizer.fingerprint, splits, entries),
            "seconds": round(time.monotonic() - started, 3),
        }
        if entries:
            read = round(sum(entry["epochs"] * entry["train"]["tokens"] for entry in entries))
            manifest |= {"mix": entries, "epoch_tokens": read}
    return manifest


def _planned(entries: list[dict[str, Any]], mix: Mix) -> list[dict[str, Any]]:
    """Add to every source's entry its passes in an epoch of the mix, and its share of what is read."""
    tokens = [entry["train"]["tokens"] for entry in entries]
    for row, size in zip(mix.source, tokens, strict=True):
        if not size:
            raise DataError(f"source {row.name!r}: leaves no document to train on. Leave it out, or give more text")
    epochs = mix.epochs(tokens)
    total = sum(each * size for each, size in zip(epochs, tokens, strict=True))
    for entry, each, size in zip(entries, epochs, tokens, strict=True):
        entry |= {"epochs": each, "share": each * size / total}
    return entries


def _write(batch: list[Document], encode: Encode, writers: dict[str, SplitWriter], validation_share: float) -> None:
    ids = encode([d.text for d in batch])
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
