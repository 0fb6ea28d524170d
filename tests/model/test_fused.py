"""Compiled passes equal the plain formulas: losses and gradients, whatever the shape, the documents, the type."""

import math

import pytest
import torch
from random_models import SHAPES, random_qwen3

from danlu.model import blas, compiled, fused, passes, rooms
from danlu.model.layers import positions_in_segments
from danlu.model.loss import chunked_nll


def documents(ids_BT):
    starts_BT = torch.rand(ids_BT.shape, generator=torch.Generator().manual_seed(4)) < 0.03
    return starts_BT.long().cumsum(1)


def learnt(model, attention, rows, tokens, apart=False, positions=None):
    """Return nll_BT and every parameter's gradient, of a sum in which some tokens do not count."""
    model.attention = attention
    ids_BT = torch.randint(model.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(3))
    labels_BT = ids_BT.roll(-1, 1)
    labels_BT[:, ::7] = -100
    segments = documents(ids_BT) if apart else None
    model.zero_grad()
    nll_BT = model(ids_BT, positions=positions, segments=segments, labels=labels_BT).nll_BT
    nll_BT.sum().backward()
    return nll_BT.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture(params=["large", "all"])
def roomy(request, monkeypatch):
    """Take memory from numpy for large tensors, which these models have none of, or for all."""
    if request.param == "all":
        monkeypatch.setattr(rooms, "_LARGE", 1)


def assert_same(got, expected):
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
    for name, gradient in expected[1].items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(got[1][name], gradient, rtol=1e-4, atol=3e-6 * largest + 1e-7, msg=name)


@pytest.fixture(params=["torch", "numpy"], autouse=True)
def library(request):
    blas.use(request.param)
    yield request.param
    blas.use("torch")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "tokens"), [(2, 200), (1, 128), (3, 17), (1, 1), (2, 257)])
@pytest.mark.parametrize("apart", [False, True])
def test_losses_and_gradients_are_those_of_plain_blocks(shape, rows, tokens, apart, roomy):
    model = random_qwen3(shape)
    assert_same(learnt(model, "fused", rows, tokens, apart), learnt(model, "sdpa", rows, tokens, apart))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "tokens"), [(2, 200), (1, 1), (2, 257)])
def test_the_blocked_kernel_keeps_documents_apart_too(shape, rows, tokens):
    model = random_qwen3(shape)
    apart = learnt(model, "blocked", rows, tokens, apart=True)
    assert_same(apart, learnt(model, "sdpa", rows, tokens, apart=True))
    if tokens > 1:
        assert not torch.allclose(apart[0], learnt(model, "blocked", rows, tokens)[0])


def test_a_loss_that_is_not_compiled_is_pytorchs(monkeypatch):
    """Also where the process's products are numpy's: two sets of threads would wait for each other."""
    monkeypatch.setattr(blas, "by_openblas", None)
    hidden, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    chunked_nll(hidden, weight, None, torch.tensor([[1, -100, 2, 0]])).sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("apart", [False, True])
def test_in_bf16_they_are_nearer_to_float32_than_plain_blocks(apart):
    model = random_qwen3("grouped")
    exact, gradients = learnt(model, "sdpa", 2, 200, apart)
    model.compute_dtype = torch.bfloat16
    errors = {}
    for attention in ("sdpa", "fused"):
        got, ours = learnt(model, attention, 2, 200, apart)
        errors[attention] = [(got - exact).norm() / exact.norm()]
        errors[attention] += [(ours[name] - g).norm() / g.norm() for name, g in gradients.items()]
    assert torch.tensor(errors["fused"]).mean() < torch.tensor(errors["sdpa"]).mean() < 0.05


def test_positions_may_begin_anew_with_every_document():
    model = random_qwen3("plain")
    ids_BT = torch.zeros(2, 90)
    positions = positions_in_segments(documents(ids_BT))
    assert_same(
        learnt(model, "fused", 2, 90, apart=True, positions=positions),
        learnt(model, "sdpa", 2, 90, apart=True, positions=positions),
    )


def test_the_same_bits_on_any_number_of_threads():
    """Of what is compiled: sums over rows are made run by run, and there are as many runs as ever."""
    x_ND, slope_ND, stream_ND = (torch.randn(333, 48, generator=torch.Generator().manual_seed(s)) for s in range(3))
    found = []
    for threads in (1, 2):
        scale_grad_CD, slope = torch.zeros(passes.CHUNKS, 48), slope_ND.clone()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with compiled.running():
                arrays = (t.numpy() for t in (x_ND, torch.ones(48), stream_ND, slope, scale_grad_CD))
                passes.normalise_rows_back(*arrays, compiled.np.float32(1e-6))
        finally:
            torch.set_num_threads(before)
        found.append((slope, scale_grad_CD.sum(0)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("label", [8, -1])
def test_a_label_that_is_no_entry_is_refused(label):
    hidden, weight = torch.randn(1, 4, 8), torch.randn(8, 8, requires_grad=True)
    with pytest.raises(IndexError, match="8 entries"):
        chunked_nll(hidden, weight, None, torch.tensor([[1, -100, label, 0]]), compiled=True)


def test_a_backward_is_done_once():
    model = random_qwen3("grouped")
    model.attention = "fused"
    ids = torch.zeros(1, 20, dtype=torch.int64)
    loss = model(ids, labels=ids).nll_BT.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_what_a_backward_needs_outlives_the_next_forward():
    """Two forwards, then their backwards: scratch memory is shared within a forward only."""
    model = random_qwen3("grouped")
    ids = [torch.randint(131, (2, tokens), generator=torch.Generator().manual_seed(tokens)) for tokens in (150, 140)]
    found = []
    for attention in ("sdpa", "fused"):
        model.attention = attention
        model.zero_grad()
        losses = [model(each, labels=each.roll(-1, 1)).nll_BT.sum() for each in ids]
        sum(losses).backward()
        found.append((torch.stack(losses).detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert_same(found[1], found[0])


def test_uneven_upstream_gradients_of_the_loss():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(1, 20, 8), torch.randn(30, 8), torch.randint(30, (1, 20))
    upstream = torch.rand(1, 20)
    found = []
    for compiled_passes in (False, True):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        nll = chunked_nll(leaves[0], leaves[1], None, labels, compiled_passes)
        (nll * upstream).sum().backward()
        found.append((nll.detach(), *(leaf.grad for leaf in leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["mlp.gate_proj", "self_attn.q_proj", "self_attn.v_proj", "input_layernorm"])
def test_a_loss_that_is_not_finite_stays_so(bad, where):
    """The trainer leaves such a step out; it must see it."""
    model = random_qwen3("plain")
    with torch.no_grad():
        model.model.layers[0].get_submodule(where).weight.view(-1)[5] = bad
    nll, gradients = learnt(model, "fused", 2, 40)
    assert not nll.isfinite().all()
    assert not gradients["model.embed_tokens.weight"].isfinite().all()


def test_without_gradients_blocks_are_plain(monkeypatch):
    model = random_qwen3("plain")
    monkeypatch.setattr(fused, "blocks", None)
    model.attention = "fused"
    with torch.no_grad():
        model(torch.zeros(1, 5, dtype=torch.int64))


@pytest.mark.parametrize("x", [-100.0, -87.0, -1e-8, 0.0, 0.3, 1.0, 87.5])
def test_the_exponential(x):
    got = compiled.exp(compiled.np.float32(x))
    assert got == pytest.approx(math.exp(max(compiled.np.float32(x), -87.0)), rel=2e-7)


def test_the_exponential_within_a_loop_that_may_order_sums_anew():
    """Its rounding must not be simplified away by what its caller allows."""
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).mul_(20).clamp_(-80, 80)
    with compiled.running():
        gates, opened = torch.cat([x[None], torch.ones(1, 10_000)], 1), torch.empty(1, 10_000)
        passes.open_gates(gates.numpy(), opened.numpy())
    torch.testing.assert_close(opened[0], torch.nn.functional.silu(x.double()).float(), rtol=1e-6, atol=1e-30)
