"""One training step of `small-25m` beside transformers' Qwen3ForCausalLM: same shape, same optimiser, same run.

Rounds alternate in one process; peak memory is measured in processes of their own.
usage: python benchmarks/step.py [--precision fp32|bf16] [--rounds 5] [--rows 4] [--window 512]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.model import build_model
from danlu.train.devices import faster_attention

Step = Callable[[], None]


def danlu_step(ids: torch.Tensor, precision: str, preset: str = "small-25m") -> Step:
    config = check(TrainConfig, read_tables(preset), preset)
    model = build_model(config.model, 6400, config.context)
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.attention = faster_attention(model.compute_dtype, ids.shape[1])  # as a run's probe chooses it
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    labels = ids.roll(-1, 1)

    def step() -> None:
        (model(ids, labels=labels).nll_BT.sum() / ids.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def transformers_step(ids: torch.Tensor, precision: str, preset: str = "small-25m") -> Step:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = check(TrainConfig, read_tables(preset), preset)
    hf = build_model(config.model, 6400, config.context).hf_config()
    model = Qwen3ForCausalLM(Qwen3Config(**hf)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


MAKERS = {"danlu": danlu_step, "transformers": transformers_step}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--memory-of", default=None)
    args = parser.parse_args()
    ids = torch.randint(6400, (args.rows, args.window), generator=torch.Generator().manual_seed(0))
    if args.memory_of:
        step = MAKERS[args.memory_of](ids, args.precision)
        for _ in range(3):
            step()
        status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's pages at the fork
        print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
        return
    steps = {name: make(ids, args.precision) for name, make in MAKERS.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    print(f"{args.precision}, {args.rows} x {args.window}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    for name, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["transformers"], taken, strict=True)]
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
        memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(
            f"{name:<14} {ids.numel() / statistics.median(taken):8,.0f} tokens/s "
            f"(min {ids.numel() / max(taken):,.0f}, max {ids.numel() / min(taken):,.0f})  "
            f"{statistics.median(ratios):5.2f}x transformers, median of pairs  peak {memory} MB"
        )


if __name__ == "__main__":
    main()
