"""Optimisers against independent routes: SVD for Muon's update, PyTorch's own AdamW for the rest."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from danlu.config import OptimConfig
from danlu.errors import CheckpointError
from danlu.train import optim
from danlu.train.optim import Optimizer, orthogonalise


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.up, self.up2, self.down = nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(12, 4, bias=False)

    def matrix_parameters(self):
        return [(n, p) for n, p in self.named_parameters() if p.ndim == 2 and "embedding" not in n]

    def loss(self, seed):
        torch.manual_seed(seed)
        x = self.embedding(torch.randint(7, (9,)))
        return self.down(torch.relu(self.up(x)) * self.up2(x)).square().sum()


def trained(config, steps, model=None, optimizer=None, first=0):
    model = model or Blocks()
    optimizer = optimizer or Optimizer(model, config)
    for step in range(first, first + steps):
        optimizer.set_rate(1.0)
        model.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 16), (2, 20, 5)])
@pytest.mark.parametrize(("steps", "low", "high", "cosine"), [(5, 0.86, 1.13, 0.99), (3, 0.18, 1.88, 0.85)])
def test_the_iteration_approaches_the_polar_factor(shape, steps, low, high, cosine):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.05, 1, min(shape[1:]))
    got = orthogonalise(u * values @ vt, steps)
    found = torch.linalg.svdvals(got)
    assert low < found.min()
    assert found.max() < high
    alike = (got * (u @ vt)).sum((1, 2)) / (got.norm(dim=(1, 2)) * (u @ vt).norm(dim=(1, 2)))
    assert alike.min() > cosine


def test_muon_equals_a_matrix_by_matrix_computation():
    config = OptimConfig(name="muon", muon_lr=0.1, weight_decay=0.5, momentum=0.9)
    model, reference = Blocks(), Blocks()
    buffers = {name: torch.zeros_like(p) for name, p in reference.matrix_parameters()}
    trained(config, 3, model)
    plain = torch.optim.AdamW(
        [
            {"params": [reference.embedding.weight], "weight_decay": 0.5},
            {"params": [reference.up.bias, reference.up2.bias], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
    )
    for step in range(3):
        reference.loss(step).backward()
        with torch.no_grad():
            for name, p in reference.matrix_parameters():
                buffers[name] = 0.9 * buffers[name] + 0.1 * p.grad
                update = orthogonalise((0.1 * p.grad + 0.9 * buffers[name])[None])[0]
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.copy_(p * (1 - 0.1 * 0.5) - 0.1 * scale * update)
        plain.step()
        reference.zero_grad()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("shape", [(2, 130, 200), (1, 300, 128), (3, 257, 257)])
def test_blocks_of_symmetric_products_change_only_rounding(shape, monkeypatch):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    in_blocks = orthogonalise(x, 3)
    monkeypatch.setattr(optim, "_LARGE", 10**9)
    torch.testing.assert_close(in_blocks, orthogonalise(x, 3), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(2, 130, 200), (1, 300, 128), (3, 128, 512)])
def test_wide_matrices_come_out_as_by_the_plain_iteration(shape, steps, monkeypatch):
    """Of singular values over four powers of ten; the plain iteration in double precision is the judge."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -4, shape[-1])
    by_gram = orthogonalise(x, steps)
    monkeypatch.setattr(optim, "_WIDE", 10**9)
    exact = orthogonalise(x.double(), steps).float()
    plain_error, error = ((y - exact).norm() / exact.norm() for y in (orthogonalise(x, steps), by_gram))
    assert 0 < error < max(3 * plain_error, 3e-5)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_taken_back_continues_bit_for_bit(name):
    config = OptimConfig(name=name, weight_decay=0.1)
    whole, _ = trained(config, 6)
    model, optimizer = trained(config, 3)
    saved = {key: value.clone() for key, value in optimizer.tensors().items()}
    twin = copy.deepcopy(model)
    fresh = Optimizer(twin, config)
    fresh.load(saved)
    trained(config, 3, twin, fresh, first=3)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in twin.state_dict().items())


def test_state_without_adamws_is_that_of_a_run_before_its_first_step():
    optimizer = Optimizer(Blocks(), OptimConfig())
    tensors = {key: torch.ones_like(value) for key, value in optimizer.tensors().items() if key.startswith("muon")}
    optimizer.load(tensors)
    assert all(value.all() == key.startswith("muon") for key, value in optimizer.tensors().items())
    assert not any(value.any() for key, value in optimizer.tensors().items() if key.startswith("adamw"))


def test_an_optimiser_does_without_pytorchs_compiler():
    """It is 56 MB, and a second of every start."""
    code = """
import sys, torch
from danlu.config import OptimConfig, Qwen3Config
from danlu.model import build_model
from danlu.train.optim import Optimizer
model = build_model(Qwen3Config(num_hidden_layers=1), 20, 8)
optimizer, ids = Optimizer(model, OptimConfig()), torch.zeros(1, 8, dtype=torch.int64)
model(ids, labels=ids).nll_BT.sum().backward()
optimizer.step()
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_foreign_state_is_refused_by_name():
    model, optimizer = trained(OptimConfig(), 1)
    tensors = optimizer.tensors()
    with pytest.raises(CheckpointError, match="stranger"):
        Optimizer(model, OptimConfig()).load({**tensors, "stranger": torch.zeros(1)})
    missing = next(k for k in tensors if k.startswith("muon"))
    with pytest.raises(CheckpointError, match="muon"):
        Optimizer(model, OptimConfig()).load({k: v for k, v in tensors.items() if k != missing})


def test_vectors_decay_only_when_asked():
    for decay_all, changed in [(False, False), (True, True)]:
        model = Blocks()
        optimizer = Optimizer(model, OptimConfig(name="adamw", lr=0.1, weight_decay=0.5, decay_all=decay_all))
        with torch.no_grad():
            model.up.bias.fill_(1.0)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert bool((model.up.bias != 1.0).any()) is changed
