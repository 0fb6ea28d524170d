"""One token of every row at a time: the few operations of `decode.NextTokens` against the uncached forward."""

import pytest
import torch
from random_models import SHAPES, random_qwen3

from danlu.model import decode

LENGTH = 300


def ids_of(rows=1):
    return torch.randint(131, (rows, LENGTH), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def reads(monkeypatch):
    """Count the tokens that NextTokens reads."""
    positions = []
    read = decode.NextTokens.read

    def counting(self, ids_BT, cache):
        positions.append(cache.lengths[0])
        return read(self, ids_BT, cache)

    monkeypatch.setattr(decode.NextTokens, "read", counting)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_different_lengths_are_read_together(shape, dtype, reads):
    """Each as if it were alone, whether or not they are equally long, and whatever lies beyond their ends."""
    model, ids_BT = random_qwen3(shape), ids_of(4)
    model.compute_dtype = dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    with torch.inference_mode(), model.frozen():
        whole = model(ids_BT).logits_BTV
        cache = model.new_cache(5, LENGTH)
        for layer in cache.layers_2BGSK:
            layer.fill_(3.0)
        for lengths in ([9, 100, 30, 0], [7, 7, 7, 7]):
            for row, length in enumerate(lengths, 1):
                if length:
                    model(ids_BT[row - 1 : row, :length], cache=cache.rows(row, [0]))
            some = cache.rows(1, lengths)
            for step in range(3):
                next_B1 = torch.stack([ids_BT[i, n + step : n + step + 1] for i, n in enumerate(lengths)])
                got = model(next_B1, cache=some).logits_BTV[:, 0]
                expected = torch.stack([whole[i, n + step] for i, n in enumerate(lengths)])
                torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert len(reads) == 6


def test_only_the_next_tokens_come_here(reads):
    model, ids_BT = random_qwen3("plain"), ids_of(2)
    one = ids_BT[:1, :1]
    with torch.no_grad(), model.frozen():
        model(ids_BT[:1, :2], cache=model.new_cache(1, LENGTH))  # two tokens
        model(one, cache=model.new_cache(1, LENGTH), labels=one)  # a loss
        model(one, cache=model.new_cache(1, LENGTH), positions=torch.tensor([[7]]))  # a position of its own
        model(one)  # no cache
    with torch.no_grad():
        model(one, cache=model.new_cache(1, LENGTH))  # weights that may change
    assert reads == []
