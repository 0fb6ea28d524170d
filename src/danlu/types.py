"""Contracts: the small frozen types that cross from one room to the next.

Shape suffixes: B rows of a batch, T tokens of a row, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Label of a position that is not scored."""

Packing = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus: its text, where it came from, and what else its record held."""

    text: str
    source: str
    id: str
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Drop:
    """A cleaning rule's answer for a document that is not kept; `reason` is counted and shown."""

    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of token ids, int64. `labels_BT` are shifted already; -100 is not scored.

    `segments_BT` says which document of its row a token belongs to (attention mask and positions);
    `extras` holds whatever tensors an objective's own `collate` adds.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    segments_BT: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])

    @property
    def scored(self) -> int:
        """Count the scored tokens."""
        return int((self.labels_BT != IGNORED).sum())


@dataclass(frozen=True, slots=True)
class ModelOut:
    """What a model's one forward returns.

    With labels: `nll_BT`, float32 nats a token, 0 where the label is -100; `logits_BTV` is None.
    Without labels: `logits_BTV`; `nll_BT` is None. `aux` is a scalar a router adds to the loss.
    """

    logits_BTV: Tensor | None = None
    nll_BT: Tensor | None = None
    aux: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """From step `start` on, a batch holds `batch_tokens` tokens in rows of `window` tokens."""

    start: int
    window: int
    batch_tokens: int


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Everything besides (seed, step) that decides which tokens a step sees.

    `context` is the block length that the shuffle permutes; every `window` divides it and it divides
    every `batch_tokens`. With `packing="padded"` a row is one document, cut or filled to `context`.
    """

    context: int
    stretches: tuple[Stretch, ...]
    packing: Packing = "packed"
    document_mask: bool = False

    def stretch_at(self, step: int) -> Stretch:
        """Return the stretch that holds `step` (counted from 0)."""
        return next(s for s in reversed(self.stretches) if s.start <= step)

    def tokens_before(self, step: int) -> int:
        """Count the tokens (filled positions included) of the batches of steps 0 … step - 1."""
        ends = [s.start for s in self.stretches[1:]] + [step]
        pairs = zip(self.stretches, ends, strict=True)
        return sum(s.batch_tokens * max(0, min(end, step) - s.start) for s, end in pairs)
