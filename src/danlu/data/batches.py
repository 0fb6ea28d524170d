"""A batch is a pure function of (plan, seed, step): no iterator, no stored permutation, the same for any ranks.

An epoch is a set of blocks of `context` tokens; where they come from, and in which order, is a `Blocks`. A step takes
whole blocks, in an order that keyed permutations give; a shorter window cuts a block into several rows.

Shapes: B rows, T tokens of a row, L tokens of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from danlu.types import IGNORED, Batch, BatchPlan

REFERENCE = "reference_BT"
"""What a batch's extras call what its labels cost a reference model."""
_ROUNDS = 4


class Block(NamedTuple):
    """Input ids_L, labels_L (-100: not scored), and which document or conversation each belongs to, if that matters.

    `reference_L` is what each label costs a reference model, in nats, where an objective compares with one.
    """

    ids_L: np.ndarray
    labels_L: np.ndarray
    segments_L: np.ndarray | None = None
    reference_L: np.ndarray | None = None


class Blocks(Protocol):
    """What training reads: a shard folder, packed conversations, or both in a stated share."""

    @property
    def vocab_size(self) -> int:
        """Return the tokenizer's number of entries."""
        ...

    @property
    def address(self) -> str:
        """Return a hash of all contents."""
        ...

    def blocks_per_epoch(self, plan: BatchPlan) -> int:
        """Count the blocks of an epoch."""
        ...

    def order(self, plan: BatchPlan, seed: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the blocks at the given places (from 0, ascending) of the order that a run reads."""
        ...

    def block(self, plan: BatchPlan, number: int) -> Block:
        """Return a block, `plan.context` tokens long."""
        ...


def batch(blocks: Blocks, plan: BatchPlan, seed: int, step: int, rows: slice | None = None) -> Batch:
    """Return the batch of `step` (counted from 0), or the given rows of it.

    Rows that would hold no scored token, which only an epoch's last block can give, are left out. A batch may span
    epochs.
    """
    stretch = plan.stretch_at(step)
    first = plan.tokens_before(step) // plan.context
    places = np.arange(first, first + stretch.batch_tokens // plan.context)
    parts = [blocks.block(plan, int(number)) for number in blocks.order(plan, seed, places)]
    ids_BT, labels_BT, segments_BT, reference_BT = (
        None if arrays[0] is None else torch.from_numpy(np.stack(arrays).reshape(-1, stretch.window))
        for arrays in zip(*parts, strict=True)
    )
    assert ids_BT is not None
    assert labels_BT is not None
    chosen = (labels_BT != IGNORED).any(1).nonzero().flatten()[rows or slice(None)]
    return Batch(
        ids_BT[chosen],
        labels_BT[chosen],
        None if segments_BT is None else segments_BT[chosen],
        {} if reference_BT is None else {REFERENCE: reference_BT[chosen]},
    )


def shuffled(places: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return which of n blocks stand at places of an endless order: all of them, epoch after epoch, shuffled anew."""
    numbers, epochs = np.empty_like(places), places // n
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        numbers[inside] = permute(places[inside] % n, n, seed, int(epoch))
    return numbers


def interleave(places: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which source stands at each place of an endless order, and for which time, counted from 0.

    Every sum(sizes) places hold source i sizes[i] times, spread as evenly as whole places can: the first source takes
    places by the line of its share (Bresenham 1965), the second by its share of what is left, and so on.
    """
    epochs, rest = np.divmod(places, sum(sizes))
    source, turn, left = np.full_like(places, -1), np.zeros_like(places), sum(sizes)
    for i, size in enumerate(sizes):
        before = rest * size // left
        mine = (source < 0) & ((rest + 1) * size // left > before)
        source[mine], turn[mine] = i, epochs[mine] * size + before[mine]
        rest, left = rest - before, left - size
    return source, turn


def permute(index: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Map 0 … n-1 onto itself, in an order that (seed, epoch) gives, without storing it.

    A Feistel network over the next power of four, walked until it falls below n. Source: Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains".
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    digest = hashlib.sha256(f"{seed}/order/{epoch}".encode()).digest()
    keys = np.frombuffer(digest, dtype="<u8")[:_ROUNDS]
    mask, result = np.uint64((1 << half) - 1), index.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        result[outside] = _feistel(result[outside], keys, np.uint64(half), mask)
        outside = result >= n
    return result.astype(np.int64)


def _feistel(x: np.ndarray, keys: np.ndarray, half: np.uint64, mask: np.uint64) -> np.ndarray:
    left, right = x >> half, x & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        left, right = right, left ^ ((mixed >> np.uint64(33)) & mask)
    return (left << half) | right
