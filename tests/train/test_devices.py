"""The probe: measured choices reach the recorded machine, and the recorded machine is what computes."""

import os

import pytest
import torch

from danlu.config import DeviceConfig
from danlu.errors import ConfigError
from danlu.train import devices


@pytest.mark.parametrize("kernel", ["sdpa", "blocked"])
def test_the_faster_attention_is_recorded(kernel, monkeypatch):
    monkeypatch.setattr(devices, "faster_attention", lambda dtype, window: kernel)
    assert devices.probe(DeviceConfig(name="cpu", threads=1)).attention == kernel


@pytest.mark.parametrize("kernel", ["sdpa", "blocked", "fused"])
def test_a_configured_attention_is_kept_and_not_timed(kernel, monkeypatch):
    monkeypatch.setattr(devices, "faster_attention", None)
    assert devices.probe(DeviceConfig(name="cpu", threads=1, attention=kernel)).attention == kernel


@pytest.mark.parametrize(("bf16_speed", "chosen"), [(5.0, "bf16"), (1.1, "fp32"), (0.01, "fp32")])
def test_precision_follows_the_measured_speed(bf16_speed, chosen, monkeypatch):
    speeds = {torch.float32: 1.0, torch.bfloat16: bf16_speed}
    monkeypatch.setattr(devices, "gemm_flops", lambda device, dtype, size: speeds[dtype])
    machine = devices.probe(DeviceConfig(name="cpu", threads=1))
    assert machine.precision == chosen
    assert machine.gemm_flops == speeds[machine.dtype]


def test_a_configured_precision_is_kept(monkeypatch):
    monkeypatch.setattr(devices, "gemm_flops", lambda device, dtype, size: 1.0)
    assert devices.probe(DeviceConfig(name="cpu", threads=1, precision="bf16")).precision == "bf16"


def test_the_faster_attention_is_one_of_the_two_and_slowness_decides(monkeypatch):
    assert devices.faster_attention(torch.float32, 64) in ("sdpa", "blocked")
    real, slow = devices.attend, "blocked"

    def attend(q, k, v, kernel):
        for _ in range(50 if kernel == slow else 1):
            y = real(q, k, v, kernel=kernel)
        return y

    monkeypatch.setattr(devices, "attend", attend)
    assert devices.faster_attention(torch.float32, 64) == "sdpa"
    slow = "sdpa"
    assert devices.faster_attention(torch.float32, 64) == "blocked"


def test_a_device_that_is_not_here_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"Use cpu"):
        devices.probe(DeviceConfig(name="cuda"))


def test_seeds_differ_by_purpose_and_step_and_repeat():
    seeds = [devices.seed_for(0, "step", 1), devices.seed_for(0, "step", 2), devices.seed_for(0, "sample", 1)]
    assert len(set(seeds)) == 3
    assert seeds[0] == devices.seed_for(0, "step", 1)


def test_cores_are_counted():
    assert 1 <= devices.physical_cores() <= (os.cpu_count() or 1)
