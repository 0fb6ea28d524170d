"""Everything danlu wants to know of an accelerator, in one run of a few minutes: `python benchmarks/gpu.py`.

Five tables: the machine's matrix products and memory; a training step of each preset, eager and compiled; attention's
back ends; danlu beside its peers; bits per character after a minute of training on real shards. What time is left
decides how much is measured, the most important first; each finding is printed, and written to --out, at once. It
needs no installed danlu: the source beside it will do. On a CPU, --tiny runs all of it in small.

usage: python benchmarks/gpu.py [--data SHARDS] [--minutes 7.5] [--out FOLDER] [--device auto] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import peers
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from danlu.config import DeviceConfig, Qwen3Config, TrainConfig
from danlu.configure import check, read_tables
from danlu.model import build_model
from danlu.train import devices
from danlu.train.objectives import NextToken
from danlu.train.optim import Optimizer
from danlu.train.step import split, train_step
from danlu.types import Batch

VOCABULARY = 6400
MICRO_BATCHES = (32_768, 65_536, 131_072, 16_384)
"""Tokens computed at once, in the order they are tried."""
TINY = Qwen3Config(hidden_size=64, num_hidden_layers=1, intermediate_size=64)
_TINY_RUN = ["--model.num-hidden-layers", "1", "--model.hidden-size", "64", "--model.intermediate-size", "64"]
_TINY_RUN += ["--batch-tokens", "1024", "--eval-tokens", "1024", "--sample-tokens", "0", "--budget", "2 steps"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all sections share: the machine, the clock, the place for findings."""

    machine: devices.Machine
    device: torch.device
    tiny: bool
    ends_at: float
    out: Path

    def left(self) -> float:
        """Return the seconds left."""
        return self.ends_at - time.monotonic()

    def section(self, name: str, rows: Iterator[Row], seconds: float) -> None:
        """Print and record a section's rows as they come, unless less than `seconds` are left for it."""
        print(f"\n## {name}", flush=True)
        if self.left() < seconds:
            print(f"left out: {self.left():.0f} s are left, it wants {seconds:.0f}", flush=True)
            return
        header: list[str] = []
        for row in rows:
            if list(row) != header:
                header = list(row)
                print(f"\n| {' | '.join(header)} |\n{'|---' * len(header)}|")
            print(f"| {' | '.join(shown(value) for value in row.values())} |", flush=True)
            with (self.out / "results.jsonl").open("a") as file:
                file.write(json.dumps({"section": name, **row}) + "\n")

    def median_seconds(self, work: Callable[[], object], times: int = 10, warm_up: int = 3) -> float:
        """Time a piece of work, device included."""
        times, warm_up = (2, 1) if self.tiny else (times, warm_up)
        taken: list[float] = []
        for _ in range(warm_up + times):
            devices.synchronise(self.device)
            start = time.perf_counter()
            work()
            devices.synchronise(self.device)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[warm_up:])

    def forget(self) -> None:
        """Give memory back and forget its peak."""
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        """Return the device's peak of allocated memory in GB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def limits(bench: Bench) -> Iterator[Row]:
    """Time square matrix products in each type, and a copy."""
    for size in (256,) if bench.tiny else (4096, 8192):
        for dtype in (torch.bfloat16, torch.float32):
            speed = devices.gemm_flops(bench.device, dtype, size, 0.05 if bench.tiny else 0.5)
            yield {"what": f"product of {4 * size}x{size} and {size}x{size}, {dtype}", "TFLOP/s": speed / 1e12}
    source = torch.empty(1 << (20 if bench.tiny else 30), dtype=torch.uint8, device=bench.device)
    seconds = bench.median_seconds(source.clone)
    yield {"what": "copy, bytes read and written", "GB/s": 2 * source.numel() / seconds / 1e9}


def step_of(bench: Bench, preset: str, micro: int, compiled: bool) -> Row:
    """Time whole steps of one micro-batch: forward, backward, clip, update."""
    bench.forget()
    config = check(TrainConfig, read_tables(preset), preset)
    context = 64 if bench.tiny else config.context
    model = build_model(TINY if bench.tiny else config.model, VOCABULARY, context).to(bench.device).train()
    model.compute_dtype, model.attention = bench.machine.dtype, bench.machine.attention
    compute: Any = torch.compile(model, dynamic=False) if compiled else model
    optimizer = Optimizer(model, config.optim, bench.machine.dtype)
    ids = torch.randint(VOCABULARY, (micro // context, context))
    batch = Batch(ids, ids.roll(-1, 1))

    def step() -> None:
        train_step(compute, optimizer, NextToken(), split(batch, len(ids), bench.device), ids.numel(), 1.0)

    started = time.perf_counter()
    step()
    devices.synchronise(bench.device)
    first = time.perf_counter() - started
    seconds = bench.median_seconds(step)
    flops = model.flops_per_token(context) * ids.numel() / seconds
    update = bench.median_seconds(optimizer.muon.step) if not bench.tiny else 0.0
    return {
        "preset": preset,
        "compiled": compiled,
        "micro-batch": micro,
        "tokens/s": ids.numel() / seconds,
        "share of GEMM": flops / bench.machine.gemm_flops,
        "peak GB": bench.peak_gb(),
        "first step s": first,
        "Muon ms (no gradients)": 1000 * update,
    }


def steps(bench: Bench, presets: list[str]) -> Iterator[Row]:
    """Time each preset eager and compiled at one size, then the faster way at others while time lasts."""
    sizes = (128,) if bench.tiny else MICRO_BATCHES
    for preset in presets:
        found: dict[bool, float] = {}
        for compiled in (False, True):
            row = tried(partial(step_of, bench, preset, sizes[0], compiled), preset=preset)
            found[compiled] = row.get("tokens/s", 0.0)
            yield row
        for micro in sizes[1:]:
            if bench.left() > 120:
                best = max(found, key=lambda key: found[key])
                yield tried(partial(step_of, bench, preset, micro, best), preset=preset)


def tried(measure: Callable[[], Row], **about: object) -> Row:
    """Return a row, or one that says why there is none."""
    try:
        return measure()
    except (RuntimeError, ImportError) as error:  # out of memory, no compiler, a kernel that this device lacks
        return {**about, "failed": str(error).partition("\n")[0][:160]}


def attention(bench: Bench) -> Iterator[Row]:
    """Time forward and backward of every back end at the presets' head size, causal, and within documents."""
    B, H, T, K = (1, 2, 128, 16) if bench.tiny else (32, 8, 1024, 64)
    q, k, v = (
        torch.randn(B, H, T, K, device=bench.device, dtype=bench.machine.dtype, requires_grad=True) for _ in range(3)
    )
    document = (torch.arange(T, device=bench.device) // (T // 4))[None].expand(B, T)
    mask = (document[:, None, :, None] == document[:, None, None, :]).tril()
    flops = 7 * B * H * T * T * K  # two products forward, five backward, half of each under the mask

    def timed(name: str, attend: Callable[[], Tensor]) -> Row:
        def measure() -> Row:
            seconds = bench.median_seconds(lambda: attend().backward(torch.ones_like(q)))
            return {"back end": name, "ms": 1000 * seconds, "TFLOP/s (causal)": flops / seconds / 1e12}

        return tried(measure, **{"back end": name})

    back_ends = (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    for back_end in back_ends:
        with sdpa_kernel(back_end):
            yield timed(back_end.name.lower(), lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    yield timed("sdpa, document mask", lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    if bench.device.type == "cuda":
        flex: Any = torch.compile(flex_attention, dynamic=False)

        def causal(b: Tensor, h: Tensor, at: Tensor, key: Tensor) -> Tensor:
            return at >= key

        def in_document(b: Tensor, h: Tensor, at: Tensor, key: Tensor) -> Tensor:
            return (at >= key) & (document[b, at] == document[b, key])

        for name, rule in (("flex, causal", causal), ("flex, document mask", in_document)):
            blocks = create_block_mask(rule, B, None, T, T, device=bench.device)
            yield timed(name, partial(flex, q, k, v, block_mask=blocks))


def beside_peers(bench: Bench) -> Iterator[Row]:
    """Time danlu and its peers at 25M parameters, each in eager mode with fused AdamW."""
    rows, window = (1, 32) if bench.tiny else (64, 512)
    ids = torch.randint(VOCABULARY, (rows, window), generator=torch.Generator().manual_seed(0)).to(bench.device)
    names = ["danlu"] if bench.tiny else [name for name in peers.PEERS if "head by head" not in name]
    for name in names:
        yield tried(partial(peer_row, bench, name, ids), model=name)


def peer_row(bench: Bench, name: str, ids: Tensor) -> Row:
    bench.forget()
    peer = peers.PEERS[name](ids, bench.machine)
    seconds = bench.median_seconds(peer.step)
    speed = ids.numel() / seconds
    flops = peer.flops_per_token * speed
    return {"model": name, "tokens/s": speed, "TFLOP/s": flops / 1e12, "peak GB": bench.peak_gb()}


def learning(bench: Bench, data: Path, presets: list[str]) -> Iterator[Row]:
    """Train presets for a minute each by `danlu train`; report the last evaluation."""
    for preset in presets:
        seconds = min(60, int(bench.left()) - 20)
        if seconds < 20 and not bench.tiny:
            return
        command = [sys.executable, "-m", "danlu", "train", preset, "--data", str(data), "--budget", f"{seconds} s"]
        command += ["--out", str(bench.out / f"run-{preset}"), "--device.name", bench.device.type, "--json"]
        command += _TINY_RUN if bench.tiny else []
        path = {"PYTHONPATH": str(HERE.parent / "src")}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, check=False)
        if done.returncode:
            yield {"preset": preset, "failed": done.stderr.strip().rpartition("\n")[2][:200]}
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        yield {
            "preset": preset,
            "seconds": float(result["seconds"]),
            "tokens": result["tokens"],
            "tokens/s": result["tokens"] / result["seconds"],
            "bits/char": result["bits_per_char"],
        }


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="shard folder; without one, nothing is trained")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--presets", nargs="+", default=["small-25m", "base-100m", "nano"])
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    machine = devices.probe(DeviceConfig(name=args.device, precision="fp32" if args.tiny else "auto"))
    machine = replace(machine, micro_batch_tokens=0)
    device = devices.prepare(machine, deterministic=False)
    bench = Bench(machine, device, args.tiny, started + 60 * args.minutes, args.out)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {machine.precision}, GEMM {machine.gemm_flops / 1e12:.3g} TFLOP/s")
    bench.section("Limits", limits(bench), 10)
    bench.section("A training step", steps(bench, args.presets), 30)
    if args.data is not None:
        bench.section("A minute of training", learning(bench, args.data, args.presets), 40)
    bench.section("Beside its peers", beside_peers(bench), 30)
    bench.section("Attention, forward and backward", attention(bench), 20)
    print(f"\n{time.monotonic() - started:.0f} s in all; rows in {args.out / 'results.jsonl'}")


if __name__ == "__main__":
    main()
