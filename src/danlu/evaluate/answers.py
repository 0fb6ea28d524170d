"""Held-out answers: what the assistant's words cost the model, in nats a scored token and bits a character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from danlu.data.turns import Turns
from danlu.evaluate.loss import Score, score_batches
from danlu.model import Model
from danlu.tokenizer import Tokenizer
from danlu.types import IGNORED, Batch

_ROWS = 8


class AnswerSet:
    """The validation conversations, as packed; at most about `max_tokens` positions, taken evenly."""

    def __init__(self, turns: Turns, tokenizer: Tokenizer, context: int, max_tokens: int | None = None):
        rows = len(turns.split("validation").row_ends)
        wanted = rows if max_tokens is None else min(rows, max(1, max_tokens // context))
        numbers = np.linspace(0, rows, wanted, endpoint=False).astype(int)
        self._blocks = [turns.row("validation", int(number), context) for number in numbers]
        scored = np.concatenate([block.labels_L[block.labels_L != IGNORED] for block in self._blocks])
        special = set(tokenizer.special_ids.values())
        text = tokenizer.decode(int(i) for i in scored if int(i) not in special)
        self.characters, self.bytes, self.context = len(text), len(text.encode()), context
        self.answers = sum(int(block.segments_L.max()) for block in self._blocks if block.segments_L is not None)

    def score(self, model: Model) -> Score:
        """Score all of it; the marks that end turns count as tokens, not as characters."""
        nats, tokens = score_batches(model, self._batches())
        return Score(nats, tokens, self.characters, self.bytes, self.context, self.answers)

    def _batches(self) -> Iterator[Batch]:
        for start in range(0, len(self._blocks), _ROWS):
            parts: list[Any] = [np.stack(arrays) for arrays in zip(*self._blocks[start : start + _ROWS], strict=True)]
            ids_BT, labels_BT, segments_BT = map(torch.from_numpy, parts)
            yield Batch(ids_BT, labels_BT, segments_BT)
