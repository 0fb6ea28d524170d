"""One token of every row at a time: `decode.NextTokens`, and the compiled `FewRows`, against the uncached forward."""

import sys

import pytest
import torch
from numba import njit
from random_models import SHAPES, random_qwen3

from danlu.model import decode, few_rows
from danlu.model.compiled import store

LENGTH = 300


def ids_of(rows=1):
    return torch.randint(131, (rows, LENGTH), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["plain", "compiled"])
def compiled(request):
    """Tell whether few rows are to be read by compiled code."""
    return request.param == "compiled"


@pytest.fixture
def reads(monkeypatch, compiled):
    """Collect the lengths of the first row where NextTokens reads, after checking who does the work."""
    positions = []
    read, read_few = decode.NextTokens.read, few_rows.FewRows.read

    def counting(self, ids_BT, cache):
        by_compiled.clear()
        positions.append(cache.lengths[0])
        logits_BV = read(self, ids_BT, cache)
        assert bool(by_compiled) == (compiled and len(ids_BT) <= few_rows.FewRows.MOST)
        return logits_BV

    def noting(self, ids_BT, cache):
        by_compiled.append(len(ids_BT))
        return read_few(self, ids_BT, cache)

    by_compiled = []
    monkeypatch.setattr(decode.NextTokens, "read", counting)
    monkeypatch.setattr(few_rows.FewRows, "read", noting)
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
def test_logits_equal_the_uncached_forward(shape, prefill, compiled, reads):
    model, ids_BT = random_qwen3(shape), ids_of()
    model.compiled = compiled
    with torch.no_grad():
        whole = model(ids_BT).logits_BTV
    torch.testing.assert_close(one_by_one(model, ids_BT, prefill), whole, rtol=1e-4, atol=1e-4)
    assert reads == list(range(prefill, LENGTH))


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_logits_are_as_close_to_fp32_as_the_uncached_ones(shape, compiled, reads):
    model, ids_BT = random_qwen3(shape), ids_of()
    model.compiled = compiled
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
def test_rows_of_different_lengths_are_read_together(shape, dtype, compiled, reads):
    """Each as if it were alone, whether or not they are equally long, and whatever lies beyond their ends."""
    model, ids_BT = random_qwen3(shape), ids_of(4)
    model.compute_dtype, model.compiled = dtype, compiled
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


def test_a_bf16_cache_holds_the_nearest_bf16_numbers():
    """Compared with PyTorch's own rounding, ties and both signs included."""
    bits = torch.randint(-(2**31), 2**31, (4096,), generator=torch.Generator().manual_seed(0))
    ties = torch.arange(0x3F80_0000, 0x3F90_0000, 0x8000)
    numbers = torch.cat([bits, ties, -ties]).to(torch.int32).view(torch.float32)
    numbers = numbers[numbers.isfinite()]
    stored = torch.empty_like(numbers, dtype=torch.bfloat16)
    rounding = njit(lambda given, out: store(given, out))
    rounding(numbers.numpy(), stored.view(torch.uint16).numpy())
    assert torch.equal(stored, numbers.bfloat16())


def test_more_rows_than_few_are_read_by_pytorch(compiled, reads):
    model, rows = random_qwen3("plain"), few_rows.FewRows.MOST + 1
    model.compiled, ids_BT = compiled, ids_of(rows)
    with torch.inference_mode(), model.frozen():
        cache = model.new_cache(rows, LENGTH)
        model(ids_BT[:, :5], cache=cache)
        got = model(ids_BT[:, 5:6], cache=cache).logits_BTV
        torch.testing.assert_close(got, model(ids_BT[:, :6]).logits_BTV[:, 5:], rtol=1e-4, atol=1e-4)
    assert reads == [5]


def test_without_numba_few_rows_are_read_by_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "danlu.model.few_rows", None)
    model = random_qwen3("plain")
    model.compiled = True
    with torch.no_grad(), model.frozen():
        assert model._frozen.next_tokens.few_rows is None


def test_compiled_code_is_loaded_only_when_asked_for():
    model = random_qwen3("plain")
    with torch.no_grad(), model.frozen():
        assert model._frozen.next_tokens.few_rows is None
