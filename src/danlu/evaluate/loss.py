"""Held-out quality, defined once: in a run's evaluations and in `danlu eval` alike.

Each document alone: the stream is eos, then its text's tokens; those are scored, eos is not. The scored
tokens are cut into windows that do not overlap; a window's inputs are the token before each of its labels, so
it sees one token of what came before it and nothing earlier. Divided by the text's characters, the sum
compares models across tokenizers.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from danlu.data.shards import Shards
from danlu.errors import ConfigError
from danlu.tokenizer import Tokenizer
from danlu.types import IGNORED, Batch

_TOKENS_SORTED_AT_ONCE = 1 << 20
_CHARACTERS_ENCODED_AT_ONCE = 1 << 18

Item = TypeVar("Item")
Window = tuple[np.ndarray, np.ndarray]
"""Inputs and labels of one row, of equal length."""


class Encoder(Protocol):
    """What scoring needs of a tokenizer; `document_id` is the mark that a document begins with."""

    document_id: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, no marks added."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """Summed nats over scored tokens, and what they are divided by; `window` is in tokens."""

    nats: float
    tokens: int
    characters: int
    bytes: int
    window: int
    documents: int

    @property
    def loss_nats_per_token(self) -> float:
        """Return the mean loss of a token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_char(self) -> float:
        """Return the bits that a character of the text costs."""
        return self.nats / math.log(2) / max(1, self.characters)

    @property
    def bits_per_byte(self) -> float:
        """Return the bits that a byte of the text's UTF-8 costs."""
        return self.nats / math.log(2) / max(1, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the ratios and the counts; `scored_tokens`, as a run's own `tokens` are another thing."""
        return {
            "loss_nats_per_token": self.loss_nats_per_token,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "scored_tokens": self.tokens,
            "characters": self.characters,
            "documents": self.documents,
            "window": self.window,
        }


def together(scores: Sequence[Score]) -> Score:
    """Add scores up, of texts that were scored in windows of one length."""
    return Score(
        sum(score.nats for score in scores),
        sum(score.tokens for score in scores),
        sum(score.characters for score in scores),
        sum(score.bytes for score in scores),
        scores[0].window,
        sum(score.documents for score in scores),
    )


def score_documents(
    model: nn.Module,
    documents: Iterable[Sequence[int] | np.ndarray],
    eos_id: int,
    window: int,
    batch_tokens: int = 8192,
    on_progress: Callable[[int], object] | None = None,
) -> tuple[float, int]:
    """Return the nats of all documents' tokens, summed in float64, and the number of those tokens.

    `documents` are ids without eos. Windows of similar length share a batch of at most `batch_tokens`
    positions (one row may be longer), and a million tokens are sorted at once, so memory does not grow with
    the source. `on_progress` is told the tokens of every batch. The model keeps its mode and compute type.
    """
    return score_batches(model, padded(_windows(documents, eos_id, window), eos_id, batch_tokens), on_progress)


def score_batches(
    model: nn.Module, batches: Iterable[Batch], on_progress: Callable[[int], object] | None = None
) -> tuple[float, int]:
    """Return the nats of the scored tokens of all batches, summed in float64, and their number."""
    device = next(model.parameters()).device
    was_training, nats, tokens = model.training, 0.0, 0
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                labels_BT = batch.labels_BT
                apart = {} if batch.segments_BT is None else {"segments": batch.segments_BT.to(device)}
                nll_BT = model(batch.ids_BT.to(device), labels=labels_BT.to(device), **apart).nll_BT
                nats += float(nll_BT.cpu().double().sum())
                scored = int((labels_BT != IGNORED).sum())
                tokens += scored
                if on_progress is not None:
                    on_progress(scored)
    finally:
        model.train(was_training)
    return nats, tokens


def _windows(documents: Iterable[Sequence[int] | np.ndarray], eos_id: int, window: int) -> Iterator[Window]:
    for document in documents:
        tokens = np.asarray(document, dtype=np.int64)
        before = np.concatenate([[eos_id], tokens[:-1]])
        for start in range(0, len(tokens), window):
            yield before[start : start + window], tokens[start : start + window]


def padded(windows: Iterable[Window], eos_id: int, batch_tokens: int = 8192) -> Iterator[Batch]:
    """Yield batches of windows of similar length, the longest of each million tokens first."""
    for held in _gathered(windows, lambda pair: len(pair[1]), _TOKENS_SORTED_AT_ONCE):
        held.sort(key=lambda pair: -len(pair[1]))
        while held:
            longest = len(held[0][1])
            rows = max(1, batch_tokens // longest)
            yield _fill(held[:rows], longest, eos_id)
            del held[:rows]


def _fill(rows: Sequence[Window], longest: int, eos_id: int) -> Batch:
    """Make one batch; what follows a row's end is not scored and, under the causal mask, not seen."""
    ids_BT = np.full((len(rows), longest), eos_id)
    labels_BT = np.full((len(rows), longest), IGNORED)
    for row, (before, tokens) in enumerate(rows):
        ids_BT[row, : len(before)], labels_BT[row, : len(tokens)] = before, tokens
    return Batch(torch.from_numpy(ids_BT), torch.from_numpy(labels_BT))


def _gathered(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    held: list[Item] = []
    total = 0
    for item in items:
        held.append(item)
        total += size(item)
        if total >= limit:
            yield held
            held, total = [], 0
    if held:
        yield held


def score_texts(
    model: nn.Module,
    tokenizer: Encoder,
    texts: Iterable[str],
    window: int,
    on_progress: Callable[[float], object] | None = None,
) -> Score:
    """Score a stream of texts as they are; `on_progress` is told about how many characters a batch held."""
    characters = size = documents = encoded = 0

    def ids() -> Iterator[list[int]]:
        nonlocal characters, size, documents, encoded
        for batch in _gathered(texts, len, _CHARACTERS_ENCODED_AT_ONCE):
            for text, row in zip(batch, tokenizer.encode_batch(batch), strict=True):
                characters, size = characters + len(text), size + len(text.encode())
                documents, encoded = documents + 1, encoded + len(row)
                yield row

    def advance(tokens: int) -> None:
        if on_progress is not None:
            on_progress(tokens * characters / encoded)

    nats, tokens = score_documents(model, ids(), tokenizer.document_id, window, on_progress=advance)
    return Score(nats, tokens, characters, size, window, documents)


def checked_window(window: int | None, context: int, default: int) -> int:
    """Return the window or its default. Raises ConfigError where it exceeds the model's context."""
    if window is None:
        return default
    if not 1 <= window <= context:
        raise ConfigError(f"--window {window:,}: give at least 1 and at most the model's context, {context:,} tokens")
    return window


class ValidationSet:
    """A fixed set of whole validation documents, held in memory with their counts; all of them by default.

    With `max_tokens` it is every k-th document, so that each source has its share, up to that many tokens; a
    document that no longer fits ends it, and if none fits, the shortest is taken.
    """

    def __init__(self, shards: Shards, tokenizer: Tokenizer, max_tokens: int | None = None):
        stream = shards.split("validation")
        every = 1 if max_tokens is None else math.ceil(len(stream) / max_tokens)
        self.eos_id = tokenizer.document_id
        found = list(islice(stream.documents(), 0, None, every))
        self.documents = found if max_tokens is None else _first(found, max_tokens)
        texts = [tokenizer.decode(document.tolist()) for document in self.documents]
        self.characters, self.bytes = sum(map(len, texts)), sum(len(text.encode()) for text in texts)

    def score(self, model: nn.Module, window: int, on_progress: Callable[[int], object] | None = None) -> Score:
        """Score all documents of the set in windows of `window` tokens; `on_progress` is told how many were scored."""
        nats, tokens = score_documents(model, self.documents, self.eos_id, window, on_progress=on_progress)
        return Score(nats, tokens, self.characters, self.bytes, window, len(self.documents))


def _first(documents: Sequence[np.ndarray], max_tokens: int) -> Sequence[np.ndarray]:
    sizes = np.cumsum([len(document) for document in documents])
    return documents[: int(np.searchsorted(sizes, max_tokens, side="right"))] or [min(documents, key=len)]
