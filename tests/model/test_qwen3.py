"""The qwen3 family against transformers' own implementation."""

import pytest
import torch
from random_models import SHAPES, random_qwen3

from danlu.config import Qwen3Config
from danlu.model import build_model
from danlu.train.step import accumulate

transformers = pytest.importorskip("transformers")


def pair(shape: str):
    """Make danlu's model and transformers' with the same random weights, norms and zero projections included."""
    ours = random_qwen3(shape)
    theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**ours.hf_config())).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    own = set(theirs.state_dict()) - ({"lm_head.weight"} if ours.config.tie_word_embeddings else set())
    assert own == set(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 130, 300])
def test_logits_equal_transformers(shape, length):
    ours, theirs = pair(shape)
    ids = torch.randint(131, (2, length), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours(ids).logits_BTV, expected, rtol=1e-4, atol=1e-4)
        shifted = ids.roll(-1, 1)
        shifted[:, -1] = -100
        nll = ours(ids, labels=shifted).nll_BT
        reference = torch.nn.functional.cross_entropy(expected.mT, shifted, reduction="none")
        torch.testing.assert_close(nll, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "blocked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_transformers(shape, kernel):
    ours, theirs = pair(shape)
    ours.attention = kernel
    ids = torch.randint(131, (2, 200), generator=torch.Generator().manual_seed(3))
    labels = ids.roll(-1, 1)
    labels[0, 5:9] = -100
    ours(ids, labels=labels).nll_BT.sum().backward()
    torch.nn.functional.cross_entropy(theirs(ids).logits.mT, labels, reduction="sum").backward()
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        torch.testing.assert_close(p.grad / scale, expected[name].grad / scale, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_equals_the_full_forward(shape):
    ours, _ = pair(shape)
    ids = torch.randint(131, (3, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), ours.frozen():
        whole = ours(ids).logits_BTV
        cache = ours.new_cache(3, 40)
        parts = [ours(ids[:, :17], cache=cache).logits_BTV]
        parts += [ours(ids[:, 17:20], cache=cache).logits_BTV]
        parts += [ours(ids[:, t : t + 1], cache=cache).logits_BTV for t in range(20, 40)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_cache_holds_rows_of_different_length():
    ours, _ = pair("grouped")
    ids = torch.randint(131, (2, 30), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        cache = ours.new_cache(2, 30)
        ours(ids[:, :10], cache=cache)
        cache.lengths = [10, 6]
        got = ours(torch.stack([ids[0, 10:12], ids[1, 6:8]]), cache=cache).logits_BTV
        torch.testing.assert_close(got[0], ours(ids[:1, :12]).logits_BTV[0, 10:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[1], ours(ids[1:, :8]).logits_BTV[0, 6:], rtol=1e-4, atol=1e-5)


def test_a_masked_document_does_not_see_its_neighbour():
    ours, _ = pair("grouped")
    a, b = torch.randint(131, (1, 12)), torch.randint(131, (1, 9))
    segments = torch.tensor([[0] * 12 + [1] * 9])
    with torch.no_grad():
        joined = ours(torch.cat([a, b], 1), segments=segments).logits_BTV
        torch.testing.assert_close(joined[:, :12], ours(a).logits_BTV, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joined[:, 12:], ours(b).logits_BTV, rtol=1e-4, atol=1e-5)


def test_the_first_loss_is_close_to_ln_vocabulary():
    for width in (64, 512, 1024):
        config = Qwen3Config(hidden_size=width, num_hidden_layers=1, intermediate_size=64)
        model = build_model(config, 6400, 32)
        ids = torch.randint(6400, (4, 33), generator=torch.Generator().manual_seed(0))
        nll = model(ids[:, :-1], labels=ids[:, 1:]).nll_BT.mean().item()
        assert nll == pytest.approx(8.764, abs=0.15), width


def test_initial_weights_depend_on_the_seed_alone():
    config = Qwen3Config(hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    torch.manual_seed(5)
    first = build_model(config, 50, 16, seed=7).state_dict()
    torch.manual_seed(6)
    again, other = (
        build_model(config, 50, 16, seed=7).state_dict(),
        build_model(config, 50, 16, seed=8).state_dict(),
    )
    assert all(torch.equal(again[k], v) for k, v in first.items())
    assert not torch.equal(other["model.embed_tokens.weight"], first["model.embed_tokens.weight"])


def test_bf16_is_close_to_fp32():
    ours, _ = pair("grouped")
    ids = torch.randint(131, (2, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        exact = ours(ids, labels=ids).nll_BT.mean().item()
        ours.compute_dtype = torch.bfloat16
        assert ours(ids, labels=ids).nll_BT.mean().item() == pytest.approx(exact, rel=0.02)


def test_accumulated_micro_batches_give_the_gradient_of_one_batch():
    from danlu.train.objectives import NextToken
    from danlu.train.step import split
    from danlu.types import Batch

    grads = []
    for rows in (1, 4):
        ours, _ = pair("grouped")
        ids = torch.randint(131, (4, 50), generator=torch.Generator().manual_seed(3))
        labels = ids.roll(-1, 1)
        labels[1, 3:] = -100
        accumulate(ours, NextToken(), split(Batch(ids, labels), rows, torch.device("cpu")), 150)
        grads.append({n: p.grad for n, p in ours.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-6, msg=name)
