"""Weights that lie side by side are one matrix without a copy, and learn as if they were copied."""

import copy

import torch
from torch import nn

from danlu.model.layers import join_rows, lay_side_by_side


def layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    made = [nn.Linear(6, rows, bias=False) for rows in (4, 2, 3)]
    lay_side_by_side(made)
    return made


def test_joining_copies_nothing_and_sees_every_change():
    made = layers()
    joined = join_rows([layer.weight for layer in made], torch.float32)
    assert joined.data_ptr() == made[0].weight.data_ptr()
    with torch.no_grad():
        made[2].weight.fill_(7)
    assert torch.equal(joined, torch.cat([layer.weight for layer in made]))


def test_gradients_equal_those_of_a_copy():
    made, x = layers(), torch.randn(5, 6)
    grads = []
    for joined in (
        join_rows([m.weight for m in made], torch.float32),
        torch.cat([m.weight for m in made]),
    ):
        (x @ joined.T).square().sum().backward()
        grads.append([m.weight.grad.clone() for m in made if m.weight.grad is not None])
        for m in made:
            m.weight.grad = None
    assert len(grads[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_cast_or_moved_weight_is_copied():
    made = layers()
    whole = torch.cat([m.weight for m in made])
    assert torch.equal(join_rows([m.weight for m in made], torch.bfloat16), whole.bfloat16())
    made[1].weight = nn.Parameter(made[1].weight.detach().clone())
    moved = join_rows([m.weight for m in made], torch.float32)
    assert moved.data_ptr() != made[0].weight.data_ptr()
    assert torch.equal(moved, whole)
    swapped = layers()
    order = [swapped[1].weight, swapped[0].weight]
    assert torch.equal(join_rows(order, torch.float32), torch.cat(order))


def test_a_copied_model_does_not_share_with_the_first():
    made = layers()
    weights = [layer.weight for layer in copy.deepcopy(made)]
    joined = join_rows(weights, torch.float32)
    assert torch.equal(joined, torch.cat([layer.weight for layer in made]))
    with torch.no_grad():
        made[0].weight.fill_(7)
    assert not torch.equal(joined[:4], made[0].weight)
