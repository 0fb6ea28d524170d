"""A batch is a pure function of (plan, seed, step): no iterator, no stored permutation, the same for any ranks.

An epoch's stream t[0], t[1], … is cut into blocks of `context` tokens. Block b scores t[bL] … t[bL+L-1], each
predicted from the token before it (eos before the first), so every token is scored exactly once an epoch. A step
takes whole blocks, in an order that a keyed permutation gives; a shorter window cuts a block into several rows.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from danlu.data.shards import Shards, TokenStream
from danlu.types import IGNORED, Batch, BatchPlan

_ROUNDS = 4


def blocks_per_epoch(shards: Shards, plan: BatchPlan) -> int:
    """Count the blocks of an epoch: windows of `context` tokens, or documents where rows are padded."""
    train = shards.split("train")
    return train.documents_count if plan.packing == "padded" else -(-len(train) // plan.context)


def batch(shards: Shards, plan: BatchPlan, seed: int, step: int, rows: slice | None = None) -> Batch:
    """Return the batch of `step` (counted from 0), or the given rows of it.

    Rows that would hold no scored token, which only an epoch's last block can give, are left out. A batch may span
    epochs. With `document_mask`, a document's segment begins at the eos before it.
    """
    stretch = plan.stretch_at(step)
    per_epoch = blocks_per_epoch(shards, plan)
    first = plan.tokens_before(step) // plan.context
    wanted = np.arange(first, first + stretch.batch_tokens // plan.context)
    train = shards.split("train")
    read = _read_document if plan.packing == "padded" else _read_block
    parts = []
    for epoch in np.unique(wanted // per_epoch):
        inside = wanted[wanted // per_epoch == epoch] % per_epoch
        parts += [read(train, int(b), plan.context) for b in permute(inside, per_epoch, seed, int(epoch))]
    ids_BT = np.stack([ids for ids, _ in parts]).reshape(-1, stretch.window)
    labels_BT = np.stack([labels for _, labels in parts]).reshape(-1, stretch.window)
    scored = (labels_BT != IGNORED).any(1)
    ids_BT, labels_BT = ids_BT[scored][rows or slice(None)], labels_BT[scored][rows or slice(None)]
    segments_BT = torch.from_numpy((ids_BT == shards.eos_id).cumsum(1)) if plan.document_mask else None
    return Batch(torch.from_numpy(ids_BT), torch.from_numpy(labels_BT), segments_BT)


def _read_block(train: TokenStream, block: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    start, stop = block * context, min((block + 1) * context, len(train))
    labels = train.read(start, stop)
    before = train.read(start - 1, start) if start else np.array([train.eos_id])
    return _filled(labels, before, train.eos_id, context)


def _read_document(train: TokenStream, number: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one document and its eos, cut to `context`, as the article does."""
    start = int(train.ends[number - 1]) + 1 if number else 0
    stop = min(int(train.ends[number]) + 1, start + context)
    return _filled(train.read(start, stop), np.array([train.eos_id]), train.eos_id, context)


def _filled(labels: np.ndarray, before: np.ndarray, eos_id: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    missing = context - len(labels)
    ids = np.concatenate([before, labels[:-1], np.full(missing, eos_id)])
    return ids, np.concatenate([labels, np.full(missing, IGNORED)])


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
