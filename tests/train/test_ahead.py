"""Batches read ahead are those read on demand, in whatever order they are asked for."""

import pytest
import torch

from danlu.errors import DataError
from danlu.train.ahead import Ahead
from danlu.types import Batch, BatchPlan, Stretch

PLAN = BatchPlan(8, (Stretch(0, 8, 16),))
REVISED = BatchPlan(8, (Stretch(0, 8, 16), Stretch(3, 4, 16)))


def read(plan: BatchPlan, step: int) -> Batch:
    ids = torch.full((2, plan.stretch_at(step).window), step)
    return Batch(ids, ids)


def test_any_order_of_plans_and_steps_gives_each_its_own():
    seen = []

    def counted(plan, step):
        seen.append((plan, step))
        return read(plan, step)

    ahead = Ahead(counted, pin=False)
    wanted = [(PLAN, 0), (PLAN, 1), (PLAN, 2), (REVISED, 3), (REVISED, 4), (PLAN, 0)]
    for plan, step in wanted:
        batch = ahead.batch(plan, step)
        assert torch.equal(batch.ids_BT, read(plan, step).ids_BT)
    ahead.close()
    assert len(seen) <= len(wanted) + 3  # the revision, the way back, and what lies after the last


def test_a_mistake_while_reading_ahead_is_raised_where_it_is_asked_for():
    def failing(plan, step):
        if step == 1:
            raise DataError("shard 3: cut short")
        return read(plan, step)

    ahead = Ahead(failing, pin=False)
    ahead.batch(PLAN, 0)
    with pytest.raises(DataError, match="cut short"):
        ahead.batch(PLAN, 1)
    ahead.close()
