"""One row, one token at a time: the few operations of `decode.OneRow` against the uncached forward."""

import pytest
import torch
from random_models import SHAPES, random_qwen3

from danlu.model import decode

LENGTH = 300  # past the end of the first rotation table


def ids_of(rows=1):
    return torch.randint(131, (rows, LENGTH), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def reads(monkeypatch):
    """Count the tokens that OneRow reads."""
    positions = []
    read = decode.OneRow.read

    def counting(self, ids_BT, cache):
        positions.append(cache.lengths[0])
        return read(self, ids_BT, cache)

    monkeypatch.setattr(decode.OneRow, "read", counting)
    return positions


def one_by_one(model, ids_BT, prefill):
    """Logits of all tokens of one row: `prefill` at once, the rest one by one."""
    with torch.inference_mode(), model.frozen():
        cache = model.new_cache(1, LENGTH)
        parts = [model(ids_BT[:, :prefill], cache=cache).logits_BTV] if prefill else []
        parts += [model(ids_BT[:, t : t + 1], cache=cache).logits_BTV for t in range(prefill, LENGTH)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("prefill", [0, 250])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_uncached_forward(shape, prefill, reads):
    assert decode._TABLE < LENGTH
    model, ids_BT = random_qwen3(shape), ids_of()
    with torch.no_grad():
        whole = model(ids_BT).logits_BTV
    torch.testing.assert_close(one_by_one(model, ids_BT, prefill), whole, rtol=1e-4, atol=1e-4)
    assert reads == list(range(prefill, LENGTH))


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_logits_are_as_close_to_fp32_as_the_uncached_ones(shape, reads):
    model, ids_BT = random_qwen3(shape), ids_of()
    with torch.no_grad():
        exact = model(ids_BT).logits_BTV
        model.compute_dtype = torch.bfloat16
        whole = model(ids_BT).logits_BTV
    got = one_by_one(model, ids_BT, 250)
    assert got.dtype == torch.bfloat16
    errors = [(x.float() - exact)[:, 250:].square().mean().sqrt() / exact.std() for x in (got, whole)]
    assert errors[0] < max(0.02, 1.5 * errors[1]), errors
    assert len(reads) == LENGTH - 250


def test_the_rotation_table_follows_a_row_that_starts_anew(reads):
    """A second cache, begun after the first went past the table's end, finds its own positions."""
    model, ids_BT = random_qwen3("grouped"), ids_of()
    with torch.inference_mode(), model.frozen():
        for length in (LENGTH, 5):
            cache = model.new_cache(1, LENGTH)
            last = [model(ids_BT[:, t : t + 1], cache=cache).logits_BTV for t in range(length)][-1]
            torch.testing.assert_close(last, model(ids_BT[:, :length]).logits_BTV[:, -1:], rtol=1e-4, atol=1e-4)
    assert len(reads) == LENGTH + 5


def test_only_the_next_token_of_one_row_comes_here(reads):
    model, ids_BT = random_qwen3("plain"), ids_of(2)
    one = ids_BT[:1, :1]
    with torch.no_grad(), model.frozen():
        model(ids_BT[:, :1], cache=model.new_cache(2, LENGTH))  # two rows
        model(ids_BT[:1, :2], cache=model.new_cache(1, LENGTH))  # two tokens
        model(one, cache=model.new_cache(1, LENGTH), labels=one)  # a loss
        model(one, cache=model.new_cache(1, LENGTH), positions=torch.tensor([[7]]))  # a position of its own
        model(one)  # no cache
    with torch.no_grad():
        model(one, cache=model.new_cache(1, LENGTH))  # weights that may change
    assert reads == []
