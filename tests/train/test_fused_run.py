"""Runs whose blocks are computed by compiled passes: resumed bit for bit, chosen where a run is long enough."""

import json
import sys
from pathlib import Path

import pytest
from test_trainer import stopped_after
from tiny_run import TINY, assert_same_run, settings

from danlu import train
from danlu.errors import ConfigError
from danlu.model import blas
from danlu.train import devices, start
from danlu.train.trial import Trial

FUSED = {**TINY["device"], "attention": "fused", "blas": "torch"}
FREE = {**TINY["device"], "attention": "auto", "blas": "torch"}
ANY_BLAS = {**FREE, "blas": "auto"}


@pytest.fixture(autouse=True)
def products_as_before():
    yield
    blas.use("torch")


def machine_of(run):
    return json.loads((Path(run) / "plan.json").read_text())["machine"]


def kernel_of(run):
    return machine_of(run)["attention"]


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_resume_is_bit_exact(shards_folder, tmp_path, monkeypatch, library):
    device = {**FUSED, "blas": library}
    straight = train(settings(shards_folder, tmp_path / "a", device=device, document_mask=True))
    config = settings(shards_folder, tmp_path / "b", device=device, document_mask=True)
    stopped_after(monkeypatch, config, 5)
    assert_same_run(straight, train(config, resume=True))
    assert kernel_of(tmp_path / "a") == "fused"
    assert machine_of(tmp_path / "a")["blas"] == library


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_run_that_takes_the_kernel_takes_the_faster_products(shards_folder, tmp_path, monkeypatch, library):
    monkeypatch.setattr(devices, "faster_blas", lambda: library)
    monkeypatch.setattr(start, "worth_compiling", lambda taken: True)
    monkeypatch.setattr(Trial, "prefers_fused", lambda trial: blas.used() == library)
    run = train(settings(shards_folder, tmp_path / "run", "3 steps", device=ANY_BLAS))["run"]
    assert (kernel_of(run), machine_of(run)["blas"], blas.used()) == ("fused", library, library)


def test_a_run_that_does_not_take_the_kernel_leaves_products_as_they_were(shards_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "faster_blas", lambda: "numpy")
    monkeypatch.setattr(start, "worth_compiling", lambda taken: True)
    monkeypatch.setattr(Trial, "prefers_fused", lambda trial: False)
    run = train(settings(shards_folder, tmp_path / "run", "3 steps", device=ANY_BLAS))["run"]
    assert (machine_of(run)["blas"], blas.used()) == ("torch", "torch")


@pytest.mark.parametrize("library", ["auto", "numpy"])
def test_where_numpy_has_another_blas(shards_folder, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, "danlu.model.openblas", None)
    config = settings(shards_folder, tmp_path / "run", "3 steps", device={**FUSED, "blas": library})
    if library == "auto":
        assert machine_of(train(config)["run"])["blas"] == "torch"
    else:
        with pytest.raises(ConfigError, match=r"device.blas numpy: .* begin a run without it"):
            train(config)


@pytest.mark.parametrize("other", [{"attention": "blocked"}, {"precision": "bf16"}])
def test_numpys_products_are_for_the_kernel_in_fp32(shards_folder, tmp_path, other):
    config = settings(shards_folder, tmp_path / "run", "3 steps", device={**FUSED, "blas": "numpy", **other})
    with pytest.raises(ConfigError, match=r"device.blas numpy: .* or leave it out"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seconds", "faster", "kernel"), [(1e9, True, "blocked"), (0, True, "fused"), (0, False, "blocked")]
)
def test_a_long_run_tries_them_and_takes_the_faster(shards_folder, tmp_path, monkeypatch, seconds, faster, kernel):
    monkeypatch.setattr(devices, "faster_attention", lambda dtype, window: "blocked")
    monkeypatch.setattr(start, "worth_compiling", lambda taken: taken >= seconds)
    monkeypatch.setattr(Trial, "prefers_fused", lambda trial: faster)
    done = train(settings(shards_folder, tmp_path / "run", "3 steps", device=FREE))
    assert kernel_of(done["run"]) == kernel


def test_a_trial_changes_nothing(shards_folder, tmp_path, monkeypatch):
    """The weights at the end are those of a run that was told its kernel."""
    told = train(settings(shards_folder, tmp_path / "told", device=FUSED))
    monkeypatch.setattr(start, "worth_compiling", lambda taken: True)
    compare = Trial.prefers_fused
    monkeypatch.setattr(Trial, "prefers_fused", lambda trial: isinstance(compare(trial), bool))
    assert_same_run(told, train(settings(shards_folder, tmp_path / "tried", device=FREE)))


@pytest.mark.parametrize("device", [FREE, FUSED])
def test_without_numba(shards_folder, tmp_path, monkeypatch, device):
    monkeypatch.setitem(sys.modules, "danlu.model.fused", None)
    monkeypatch.setattr(start, "worth_compiling", lambda taken: True)
    config = settings(shards_folder, tmp_path / "run", "3 steps", device=device)
    if device is FREE:
        assert kernel_of(train(config)["run"]) in ("sdpa", "blocked")
    else:
        with pytest.raises(ConfigError, match=r"extra \[fast\]"):
            train(config)


def test_a_run_begun_with_numba_says_so_where_it_is_missing(shards_folder, tmp_path, monkeypatch):
    config = settings(shards_folder, tmp_path / "run", device=FUSED)
    stopped_after(monkeypatch, config, 5)
    monkeypatch.setitem(sys.modules, "danlu.model.fused", None)
    with pytest.raises(ConfigError, match="numba"):
        train(config, resume=True)


def test_a_compiler_that_fails_at_products_is_done_without(monkeypatch):
    from danlu.model import openblas

    def failing(*args):
        raise OSError("no space left on the device")

    monkeypatch.setattr(openblas, "multiply", failing)
    assert (devices.faster_blas(), blas.used()) == ("torch", "torch")


@pytest.mark.parametrize("trouble", [OSError("no space left on the device"), MemoryError(), RuntimeError("numba")])
def test_a_compiler_that_fails_is_done_without(shards_folder, tmp_path, monkeypatch, trouble):
    from danlu.model import fused

    def failing(*args):
        raise trouble

    monkeypatch.setattr(start, "worth_compiling", lambda taken: True)
    monkeypatch.setattr(fused, "blocks", failing)
    done = train(settings(shards_folder, tmp_path / "run", "3 steps", device=FREE))
    assert kernel_of(done["run"]) in ("sdpa", "blocked")


@pytest.mark.parametrize("changes", [{"adapter": "lora", "init": "whole"}, {"model": {"model_type": "danlu_article"}}])
def test_where_it_does_nothing_it_is_not_taken(shards_folder, tmp_path, capsys, monkeypatch, changes):
    monkeypatch.setattr(devices, "fused", None)  # nor asked for, nor its products timed
    if "init" in changes:
        base = train(settings(shards_folder, tmp_path / "base", "1 steps"))
        changes = {"adapter": "lora", "init": base["checkpoint"]}
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        changes = {"model": {"model_type": "danlu_article", **sizes}, "embedding": "random"}
    done = train(settings(shards_folder, tmp_path / "run", "2 steps", device={**FUSED, "blas": "auto"}, **changes))
    assert kernel_of(done["run"]) == "blocked"
    assert "takes blocked" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"device.blas numpy: .* cannot take. Leave it out"):
        train(settings(shards_folder, tmp_path / "other", "2 steps", device={**FUSED, "blas": "numpy"}, **changes))


def test_an_accelerator_is_told_that_fused_is_for_cpus(monkeypatch):
    machine = devices.Machine("cuda", "bf16", 1, 1.0, attention="fused")
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="for a CPU"):
        devices.prepare(machine, deterministic=False)
