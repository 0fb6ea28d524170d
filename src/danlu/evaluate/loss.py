"""Held-out quality, defined once: in a run's evaluations and in `danlu eval` alike.

Each document alone: eos, then its text's tokens, which are scored (eos is not), in windows that do not overlap; a
window's first input is the token before it. Divided by the text's characters, that compares across tokenizers.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from danlu.data.shards import Shards
from danlu.errors import ConfigError
from danlu.model import Model
from danlu.tokenizer import Tokenizer
from danlu.types import IGNORED

_DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Score:
    """Summed nats over scored tokens, and what they are divided by; `window` is in tokens."""

    nats: float
    tokens: int
    characters: int
    bytes: int
    documents: int
    window: int

    @property
    def loss_nats_per_token(self) -> float:
        """Return the mean loss of a token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_char(self) -> float:
        """Return the bits a character of the text costs."""
        return self.nats / math.log(2) / max(1, self.characters)

    @property
    def bits_per_byte(self) -> float:
        """Return the bits a byte of UTF-8 costs."""
        return self.nats / math.log(2) / max(1, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the ratios and the counts."""
        return {
            "loss_nats_per_token": self.loss_nats_per_token,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "scored_tokens": self.tokens,
            "characters": self.characters,
            "documents": self.documents,
            "window": self.window,
        }


def score_tokens(
    model: Model,
    documents: Sequence[Sequence[int] | np.ndarray],
    begin_id: int,
    window: int,
    batch_tokens: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> float:
    """Sum the nats of all documents' tokens (text only, no eos).

    Windows of similar length share a batch; filled positions are not scored. The sum is in float64.
    """
    device = model.output_weight.device
    pieces = sorted(_windows(documents, begin_id, window), key=lambda piece: -len(piece[1]))
    was_training, total = model.training, 0.0
    model.eval()
    try:
        with torch.inference_mode():
            for ids_BT, labels_BT in _batches(pieces, begin_id, batch_tokens):
                nll_BT = model(ids_BT.to(device), labels=labels_BT.to(device)).nll_BT
                total += float(nll_BT.double().sum())
                if on_progress is not None:
                    on_progress(int((labels_BT != IGNORED).sum()))
    finally:
        model.train(was_training)
    return total


def _windows(
    documents: Sequence[Sequence[int] | np.ndarray], begin_id: int, window: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for document in documents:
        tokens = np.asarray(document, dtype=np.int64)
        before = np.concatenate([[begin_id], tokens[:-1]])
        for start in range(0, len(tokens), window):
            yield before[start : start + window], tokens[start : start + window]


def _batches(
    pieces: list[tuple[np.ndarray, np.ndarray]], begin_id: int, batch_tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    start = 0
    while start < len(pieces):
        longest = len(pieces[start][1])
        rows = pieces[start : start + max(1, batch_tokens // longest)]
        ids_BT = np.full((len(rows), longest), begin_id)
        labels_BT = np.full((len(rows), longest), IGNORED)
        for row, (before, tokens) in enumerate(rows):
            ids_BT[row, : len(before)], labels_BT[row, : len(tokens)] = before, tokens
        yield torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
        start += len(rows)


def score_texts(
    model: Model,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    window: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Score:
    """Score a stream of texts, a few thousand at a time. Raises ConfigError for a window beyond the context."""
    window = checked_window(model, window)
    stream, nats, counts = iter(texts), 0.0, [0, 0, 0, 0]
    while chunk := [text for text in islice(stream, _DOCUMENTS_AT_ONCE)]:
        ids = tokenizer.encode_batch(chunk)
        nats += score_tokens(model, ids, tokenizer.eos_id, window, on_progress=on_progress)
        sizes = (sum(map(len, ids)), sum(map(len, chunk)), sum(len(t.encode()) for t in chunk), len(chunk))
        counts = [a + b for a, b in zip(counts, sizes, strict=True)]
    return Score(nats, counts[0], counts[1], counts[2], counts[3], window)


def checked_window(model: Model, window: int | None) -> int:
    """Return the window, the model's context by default."""
    if window is not None and not 1 <= window <= model.context:
        raise ConfigError(f"--window {window:,}: must lie between 1 and the model's context of {model.context:,}")
    return window or model.context


class ValidationSet:
    """A fixed set of a shard folder's validation documents: every k-th one, so that it holds about `max_tokens`."""

    def __init__(self, shards: Shards, tokenizer: Tokenizer, max_tokens: int | None = None):
        stream = shards.split("validation")
        every = 1 if max_tokens is None else max(1, round(len(stream) / max_tokens))
        self.eos_id = tokenizer.eos_id
        self.documents = list(islice(stream.documents(), 0, None, every))
        self.tokens = sum(map(len, self.documents))
        texts = [tokenizer.decode(document.tolist()) for document in self.documents]
        self.characters, self.bytes = sum(map(len, texts)), sum(len(text.encode()) for text in texts)

    def score(self, model: Model, window: int) -> Score:
        """Score all documents of the set."""
        nats = score_tokens(model, self.documents, self.eos_id, window)
        return Score(nats, self.tokens, self.characters, self.bytes, len(self.documents), window)
