"""Hand-written kernels equal the ordinary PyTorch they replace: values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from danlu.config import ArticleConfig, Qwen3Config
from danlu.model import build_model, kernels, loss
from danlu.model.kernels import causal_attention, rms_norm, rotate, swiglu
from danlu.model.layers import document_mask
from danlu.model.loss import chunked_nll


def gradients(function, inputs, upstream):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(upstream)
    return out.detach(), [leaf.grad for leaf in leaves]


def assert_same(function, reference, inputs, tolerance=1e-5):
    torch.manual_seed(1)
    upstream = torch.randn_like(reference(*inputs))
    got, got_grads = gradients(function, inputs, upstream)
    expected, expected_grads = gradients(reference, inputs, upstream)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("weight_shape", [(16,), (3, 16)])
def test_rms_norm(weight_shape):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 3, 16), torch.randn(weight_shape)

    def reference(x, w):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w

    assert_same(lambda x, w: rms_norm(x, w, 1e-6), reference, (x, weight))


def test_rms_norm_of_zeros_is_zero():
    x = torch.zeros(2, 8, requires_grad=True)
    out = rms_norm(x, torch.ones(8), 1e-6)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 8))
    assert x.grad.isfinite().all()


def test_swiglu():
    torch.manual_seed(0)

    def reference(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    assert_same(swiglu, reference, (torch.randn(2, 5, 12),))


def test_rotation():
    torch.manual_seed(0)
    x, angle = torch.randn(2, 5, 3, 16), torch.randn(1, 5, 1, 8)

    def reference(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    assert_same(lambda x: rotate(x, angle.cos(), angle.sin()), reference, (x,))


@pytest.mark.parametrize("T", [1, 7, 128, 129, 300])
@pytest.mark.parametrize(("H", "G"), [(4, 4), (6, 2), (2, 1)])
@pytest.mark.parametrize("starts", [None, 0.0, 0.02, 1.0])
def test_blocked_attention(T, H, G, starts):
    """`starts`: of tokens, the share with which a document begins, that sees nothing of those before."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, H, T, 8), torch.randn(2, G, T, 8), torch.randn(2, G, T, 8)
    mask = None if starts is None else document_mask((torch.rand(2, T) < starts).cumsum(1))

    def reference(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)

    assert_same(lambda q, k, v: causal_attention(q, k, v, mask), reference, (q, k, v))


@pytest.mark.parametrize("starts", [60, 200])
def test_blocked_attention_meets_no_key_that_nobody_may_see(starts):
    """A block of queries begins with the document that its first query is in."""
    q = torch.randn(1, 2, 256, 8, requires_grad=True)
    mask = document_mask((torch.arange(256) >= starts).long()[None])
    with FlopCounterMode(display=False) as counted:
        causal_attention(q, q, q, mask)
    keys = 128 + (256 - starts if starts < 128 else 256)
    assert counted.get_total_flops() == 2 * 2 * 128 * keys * 8 * 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
def test_chunked_loss(bias, uniform, ignored):
    torch.manual_seed(0)
    hidden, weight, offset = torch.randn(3, 700, 12), torch.randn(37, 12), torch.randn(37)
    labels = torch.randint(37, (3, 700))
    if ignored != "none":
        labels[:, :: 2 if ignored == "some" else 1] = -100
    upstream = torch.full((3, 700), 0.3) if uniform else torch.rand(3, 700)
    inputs = [hidden, weight, *([offset] if bias else [])]

    def ours(h, w, b=None):
        return chunked_nll(h, w, b, labels)

    def reference(h, w, b=None):
        return F.cross_entropy(F.linear(h, w, b).mT, labels, reduction="none")

    got, got_grads = gradients(ours, inputs, upstream)
    expected, expected_grads = gradients(reference, inputs, upstream)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_loss_of_an_impossible_token_is_exact():
    weight = torch.tensor([[500.0], [0.0]])
    nll = chunked_nll(torch.ones(1, 1, 1), weight, None, torch.tensor([[1]]))
    assert nll.item() == pytest.approx(500.0)


@pytest.mark.parametrize(("mode", "products"), [(torch.no_grad, 1), (torch.inference_mode, 1), (torch.enable_grad, 3)])
def test_the_loss_computes_gradients_only_where_they_can_be_asked_for(mode, products):
    """Count FLOPs: the logits are one product of this size, the two gradients two more."""
    hidden, weight = torch.randn(3, 700, 12), torch.randn(37, 12, requires_grad=True)
    labels = torch.randint(37, (3, 700))
    with mode(), FlopCounterMode(display=False) as counted:
        chunked_nll(hidden, weight, None, labels)
    assert counted.get_total_flops() == products * 2 * labels.numel() * weight.numel()


@pytest.mark.parametrize("config", [Qwen3Config(num_hidden_layers=1), ArticleConfig(num_hidden_layers=1)])
def test_evaluation_makes_no_gradient_of_the_output_layer(config, monkeypatch):
    made = []
    original = loss._Gradients
    monkeypatch.setattr(loss, "_Gradients", lambda *inputs: made.append(inputs) or original(*inputs))
    model, ids = build_model(config, 50, 16).eval(), torch.randint(50, (2, 16))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            model(ids, labels=ids)
    assert not made
    model(ids, labels=ids)
    assert len(made) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(), (1,), (3, 5), (512,)])
def test_a_packed_matrix_gives_the_same_product(dtype, rows):
    """Where this machine can pack; where it cannot, the matrix is left as it is."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(*rows, 64, generator=generator).to(dtype)
    try:
        packed = kernels._packed(weight)
    except (RuntimeError, AttributeError, NotImplementedError):  # bf16 without AVX-512, say
        packed = weight
        assert kernels.pack(weight) is weight
    for matrix in (kernels.pack(weight), packed):
        torch.testing.assert_close(kernels.linear(x, matrix), F.linear(x, weight), rtol=2e-2, atol=1e-4)


def test_a_machine_without_packing_takes_the_matrix_as_it_is(monkeypatch):
    def fails(weight):
        raise RuntimeError("not built with oneDNN")

    monkeypatch.setattr(kernels, "_packed", fails)
    kernels._packing_pays.cache_clear()
    weight = torch.randn(8, 4)
    assert kernels.pack(weight) is weight
    kernels._packing_pays.cache_clear()
