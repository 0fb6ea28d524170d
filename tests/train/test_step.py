"""One update: exact over ragged micro-batches, and skipped when it is not finite."""

import copy
import math

import pytest
import torch
from torch import nn

from danlu.config import OptimConfig
from danlu.train.objectives import NextToken
from danlu.train.optim import Optimizer
from danlu.train.step import split, train_step
from danlu.types import Batch, ModelOut


class Tiny(nn.Module):
    """An embedding and an output layer: the smallest language model."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, ids_BT, positions=None, segments=None, cache=None, labels=None):
        logits = self.head(self.embedding(ids_BT))
        return ModelOut(nll_BT=nn.functional.cross_entropy(logits.mT, labels, reduction="none"))


def ragged_batch() -> Batch:
    torch.manual_seed(0)
    ids, labels = torch.randint(11, (5, 6)), torch.randint(11, (5, 6))
    labels[0, 1:] = -100
    labels[3] = -100
    return Batch(ids, labels)


def stepped(model: nn.Module, rows: int, clip: float = 0.0) -> tuple[nn.Module, float]:
    twin = copy.deepcopy(model)
    optimizer = Optimizer(twin, OptimConfig(name="adamw", lr=0.01))
    batch, objective = ragged_batch(), NextToken()
    parts = split(batch, rows, torch.device("cpu"))
    return twin, train_step(twin, optimizer, objective, parts, objective.count(batch), clip).loss


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_ragged_accumulation_equals_one_big_batch(rows):
    model = Tiny()
    parts, loss = stepped(model, rows)
    whole, expected = stepped(model, 5)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, msg=name)


def test_the_loss_is_the_mean_over_scored_tokens():
    model, batch = Tiny(), ragged_batch()
    logits = model.head(model.embedding(batch.ids_BT)).flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, batch.labels_BT.flatten()).item()
    assert stepped(model, 2)[1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    model = Tiny()
    with torch.no_grad():
        model.head.bias[3] = bad
    before = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, OptimConfig(name="adamw"))
    batch = ragged_batch()
    result = train_step(model, optimizer, NextToken(), [batch], 25, 1.0)
    assert result.skipped
    assert all(torch.equal(value, before[name]) or name == "head.bias" for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(tensor.any() for tensor in optimizer.tensors().values())


def test_clipping_bounds_the_update_of_plain_gradient_descent():
    model, batch = Tiny(), ragged_batch()
    loss = NextToken().loss(model, batch)[0] / 25
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    model.zero_grad()
    result = train_step(model, Optimizer(model, OptimConfig(name="adamw")), NextToken(), [batch], 25, 0.01)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
