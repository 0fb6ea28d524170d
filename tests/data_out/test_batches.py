"""Batches: every token of every epoch scored exactly once, whatever the windows, the ranks or the order asked for."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from danlu.data.batches import batch, permute
from danlu.data.shards import Shards, TokenStream
from danlu.types import IGNORED, BatchPlan, Stretch

EOS = 0


def made_shards(tokens: int, seed: int = 0, parts: int = 2) -> Shards:
    """Make shards in memory whose tokens are all different, but for eos, so that each can be followed."""
    rng = random.Random(seed)
    stream = np.arange(1, tokens + 1)
    for end in [*rng.sample(range(tokens), max(1, tokens // 9)), tokens - 1]:
        stream[end] = EOS
    pieces = tuple(np.array_split(stream, parts))
    documents = int((stream == EOS).sum())
    shards = Shards(None, {"eos_id": EOS, "vocab_size": tokens + 1})  # pyright: ignore
    shards.__dict__["_streams"] = {"train": TokenStream(pieces, EOS, documents, tokens, tokens)}
    return shards


def plan(context: int, *stretches: tuple[int, int, int], **options) -> BatchPlan:
    return BatchPlan(context, tuple(Stretch(*s) for s in stretches), **options)


def scored(shards, plan, seed, steps):
    """Yield every scored (input, label) pair in order."""
    for step in steps:
        got = batch(shards, plan, seed, step)
        mask = got.labels_BT != IGNORED
        yield from zip(got.ids_BT[mask].tolist(), got.labels_BT[mask].tolist(), strict=True)


CASES = [
    (1000, plan(16, (0, 16, 32))),
    (1000, plan(16, (0, 8, 32))),
    (1000, plan(64, (0, 64, 64))),
    (1024, plan(32, (0, 32, 128))),
    (1023, plan(32, (0, 32, 96))),
    (1025, plan(32, (0, 4, 96))),
    (50, plan(64, (0, 64, 128))),
    (997, plan(32, (0, 8, 32), (7, 16, 64), (11, 32, 128))),
]


@pytest.mark.parametrize(("tokens", "plan"), CASES)
def test_every_token_of_every_epoch_is_scored_once(tokens, plan):
    shards = made_shards(tokens)
    stream = shards.split("train").read(0, tokens)
    before = np.concatenate([[EOS], stream[:-1]])
    expected = Counter(zip(before.tolist(), stream.tolist(), strict=True))
    epoch = shards.blocks_per_epoch(plan)
    steps, blocks = 0, 0
    while blocks < 3 * epoch:  # whole steps; then count exactly three epochs of blocks
        blocks += plan.stretch_at(steps).batch_tokens // plan.context
        steps += 1
    pairs = Counter(scored(shards, plan, 5, range(steps)))
    extra = blocks - 3 * epoch
    assert all(pairs[pair] >= 3 * count for pair, count in expected.items())
    surplus = sum(pairs.values()) - 3 * tokens
    assert 0 <= surplus <= extra * plan.context
    assert set(pairs) == set(expected)


def test_at_most_one_short_row_an_epoch_and_none_empty():
    shards, p = made_shards(1003), plan(32, (0, 8, 64))
    steps = -(-shards.blocks_per_epoch(p) // 2)
    short = 0
    for step in range(steps):
        lengths = (batch(shards, p, 1, step).labels_BT != IGNORED).sum(1)
        assert lengths.min() > 0
        short += int((lengths < 8).sum())
    assert short <= 1


def test_a_batch_is_pure_and_seeds_and_epochs_differ():
    shards, p = made_shards(1000), plan(16, (0, 16, 64))
    first = batch(shards, p, 3, 7)
    batch(shards, p, 3, 90)
    assert torch.equal(batch(shards, p, 3, 7).ids_BT, first.ids_BT)
    assert not torch.equal(batch(shards, p, 4, 7).ids_BT, first.ids_BT)
    orders = [permute(np.arange(63), 63, 0, epoch).tolist() for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_ranks_rows_together_are_the_batch(ranks):
    shards, p = made_shards(1000), plan(16, (0, 8, 96))
    whole = batch(shards, p, 0, 4)
    rows = len(whole.ids_BT)
    cuts = [rows * r // ranks for r in range(ranks + 1)]
    parts = [batch(shards, p, 0, 4, slice(a, b)) for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat([x.ids_BT for x in parts]), whole.ids_BT)
    assert torch.equal(torch.cat([x.labels_BT for x in parts]), whole.labels_BT)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 256, 257, 1000])
def test_the_permutation_is_one(n):
    assert sorted(permute(np.arange(n), n, 3, 1).tolist()) == list(range(n))


def test_the_permutation_looks_random():
    moved = permute(np.arange(1000), 1000, 0, 0)
    assert abs(np.corrcoef(np.arange(1000), moved)[0, 1]) < 0.15
    assert np.mean(np.abs(np.diff(moved))) > 200


def test_labels_are_the_inputs_shifted():
    shards, p = made_shards(1000), plan(16, (0, 8, 64))
    got = batch(shards, p, 0, 3)
    assert torch.equal(got.ids_BT[:, 1:], got.labels_BT[:, :-1])


def test_segments_change_at_every_end_mark():
    shards, p = made_shards(1000), plan(32, (0, 32, 128), document_mask=True)
    got = batch(shards, p, 0, 2)
    assert got.segments_BT is not None
    begins = got.ids_BT == EOS
    assert torch.equal(got.segments_BT[:, 1:] != got.segments_BT[:, :-1], begins[:, 1:])
    assert batch(shards, plan(32, (0, 32, 128)), 0, 2).segments_BT is None


def test_padded_rows_are_documents_cut_or_filled():
    shards, p = made_shards(600), plan(16, (0, 16, 64), packing="padded")
    documents = [[*d.tolist(), EOS] for d in shards.split("train").documents()]
    assert shards.blocks_per_epoch(p) == len(documents)
    seen = []
    for step in range(-(-len(documents) // 4)):
        got = batch(shards, p, 0, step)
        for ids, labels in zip(got.ids_BT.tolist(), got.labels_BT.tolist(), strict=True):
            real = [x for x in labels if x != IGNORED]
            assert ids[: len(real)] == [EOS, *real[:-1]]
            assert ids[len(real) :] == [EOS] * (16 - len(real))
            seen.append(tuple(real))
    assert set(seen) == {tuple(d[:16]) for d in documents}


def test_reading_crosses_files():
    shards = made_shards(1000, parts=7)
    one = made_shards(1000, parts=1)
    for start, stop in [(0, 1000), (140, 150), (0, 1), (999, 1000), (100, 900)]:
        assert shards.split("train").read(start, stop).tolist() == one.split("train").read(start, stop).tolist()
