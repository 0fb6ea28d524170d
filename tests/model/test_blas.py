"""Products by numpy's OpenBLAS equal PyTorch's, however the matrices lie, on however many threads."""

import sys

import pytest
import torch

from danlu.config import Qwen3Config
from danlu.model import blas, build_model
from danlu.train import devices

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="numpy's wheels use Apple's BLAS there")


@pytest.fixture(autouse=True)
def openblas():
    blas.use("numpy")
    yield
    blas.use("torch")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def laid_out(rows, columns, way, seed):
    torch.manual_seed(seed)
    if way == "rows":
        return torch.randn(rows, columns)
    if way == "columns":
        return torch.randn(columns, rows).mT
    if way == "part of rows":
        return torch.randn(rows + 3, columns + 5)[2 : 2 + rows, 1 : 1 + columns]
    if way == "part of columns":
        return torch.randn(columns + 3, rows + 5)[2 : 2 + columns, 1 : 1 + rows].mT
    return torch.randn(rows, 2 * columns)[:, ::2]  # neither lies without gaps: PyTorch's


WAYS = ["rows", "columns", "part of rows", "part of columns", "gaps"]


@pytest.mark.parametrize("sizes", [(64, 48, 80), (1, 5, 7), (7, 1, 5), (5, 7, 1), (1, 1, 1), (3, 200, 2)])
@pytest.mark.parametrize("left", WAYS)
@pytest.mark.parametrize("right", WAYS)
def test_products(sizes, left, right, threads):
    M, N, K = sizes
    a, b = laid_out(M, K, left, 0), laid_out(K, N, right, 1)
    expected = (a.double() @ b.double()).float()
    torch.testing.assert_close(blas.product(a, b), expected, rtol=1e-5, atol=1e-5)
    sum_MN = torch.ones(M, N)
    assert blas.add_product(sum_MN, a, b) is sum_MN
    torch.testing.assert_close(sum_MN, expected + 1, rtol=1e-5, atol=1e-5)


def test_other_types_are_pytorchs():
    a, b = torch.randn(4, 5).bfloat16(), torch.randn(5, 6).bfloat16()
    assert torch.equal(blas.product(a, b), a @ b)


def test_what_lies_in_other_ways_is_pytorchs():
    a, b = torch.randn(1, 5).expand(4, 5), torch.randn(5, 6)
    torch.testing.assert_close(blas.product(a, b), a.contiguous() @ b)
    out = torch.ones(6, 4).mT
    torch.testing.assert_close(blas.add_product(out, a, b), a.contiguous() @ b + 1)


def test_numpy_has_its_threads_again():
    from danlu.model import openblas

    threads = openblas._openblas.scipy_openblas_get_num_threads64_
    assert threads() == 1
    blas.use("torch")
    assert threads() == openblas._THREADS


def test_nothing_times_nothing():
    assert blas.product(torch.empty(0, 3), torch.ones(3, 2)).shape == (0, 2)
    assert torch.equal(blas.product(torch.empty(2, 0), torch.empty(0, 3)), torch.zeros(2, 3))


def test_what_is_not_a_number_stays_so():
    a = torch.full((40, 40), torch.nan)
    assert blas.product(a, torch.zeros(40, 40)).isnan().all()


@pytest.mark.parametrize(("seconds", "expected"), [(2.0, "numpy"), (2.99, "torch"), (4.0, "torch")])
def test_the_clearly_faster_is_chosen(monkeypatch, seconds, expected):
    blas.use("torch")
    tiny = Qwen3Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)
    monkeypatch.setattr(devices, "build_model", lambda config, entries, context: build_model(tiny, entries, context))
    taken, now = {"torch": 3.0, "numpy": seconds}, [0.0]

    def clock():
        now[0] += taken[blas.used()]
        return now[0]

    monkeypatch.setattr(devices.time, "perf_counter", clock)
    assert devices.faster_blas() == expected
    assert blas.used() == "torch"
