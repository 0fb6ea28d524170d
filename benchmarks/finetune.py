"""Fine-tuning: packed against padded conversations, LoRA's memory against full fine-tuning's, preferences learned.

Each part runs danlu as a user would. A base is a run or checkpoint folder with a chat template.

usage: python benchmarks/finetune.py packing --base RUN [--rounds 3]
       python benchmarks/finetune.py memory --base RUN [--presets small-25m,base-100m] [--precision fp32]
       python benchmarks/finetune.py preferences --base RUN [--pairs 1000] [--budget "2 epochs"]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from danlu.checkpoint import load_model, load_tokenizer, resolve, save_checkpoint
from danlu.commands.finetune_ import settings
from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.data import batches
from danlu.data.chat import Conversation, Conversations
from danlu.data.prepare_turns import prepare_turns
from danlu.data.sources import Corpus
from danlu.data.template import ChatTemplate
from danlu.data.turns import open_turns
from danlu.log import read_metrics
from danlu.model import build_model
from danlu.train import devices
from danlu.train.objectives import NextToken
from danlu.train.optim import Optimizer
from danlu.train.step import split, train_step
from danlu.types import IGNORED, Batch, BatchPlan, Stretch

FINETUNE = [sys.executable, "-m", "danlu", "finetune"]
QUIET = ["--questions", "0", "--sample-tokens", "0", "--json"]


def padded(turns, context: int, count: int) -> Batch:
    """Give every conversation a row of its own, filled to the context."""
    train = turns.split("train")
    ids = torch.full((count, context), turns.eos_id)
    labels = torch.full((count, context), IGNORED)
    for row in range(count):
        tokens = train.tokens(row)
        own, scored = torch.from_numpy(train.ids[tokens].astype("int64")), torch.from_numpy(train.scored[tokens].copy())
        ids[row, : len(own) - 1] = own[:-1]
        labels[row, : len(own) - 1] = torch.where(scored[1:], own[1:], IGNORED)
    return Batch(ids, labels)


def packing(args: argparse.Namespace) -> None:
    """Time whole steps; count the conversations' own tokens, scored and not."""
    model = load_model(args.base).train()
    tokenizer = load_tokenizer(args.base)
    config = settings(str(args.base))
    machine = devices.probe(config.device, model.context)
    devices.prepare(machine, deterministic=False)
    model.compute_dtype, model.attention = machine.dtype, machine.attention
    optimizer = Optimizer(model, config.optim, machine.dtype)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Conversations(Corpus(["demo-chat"], text_key=None))
        prepare_turns(corpus, ChatTemplate(tokenizer), model.context, Path(folder) / "turns")
        turns = open_turns(Path(folder) / "turns")
        plan = BatchPlan(model.context, (Stretch(0, model.context, 8 * model.context),))
        packed = batches.batch(turns, plan, 0, 0)
        alone = padded(turns, model.context, 8)
        assert packed.segments_BT is not None
        own = {"packed": int((packed.segments_BT > 0).sum()), "padded": int(turns.split("train").ends[7]) - 8}
    speeds: dict[str, list[float]] = {"packed": [], "padded": []}
    for round_number in range(args.rounds + 1):
        for name, batch in (("packed", packed), ("padded", alone)):
            started = time.perf_counter()
            parts = split(batch, 4, torch.device("cpu"))
            train_step(model, optimizer, NextToken(), parts, batch.scored, 1.0)
            if round_number:
                speeds[name].append(own[name] / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratio = medians["packed"] / medians["padded"]
    print(json.dumps({"tokens_per_second": medians, "ratio": ratio, "precision": machine.precision}))


def memory(args: argparse.Namespace) -> None:
    """Measure the peak resident memory of two steps of `danlu finetune`, full and with LoRA."""
    tokenizer = load_tokenizer(args.base)
    for preset in args.presets.split(","):
        config = check(TrainConfig, read_tables(preset), preset)
        peaks: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            save_checkpoint(base, build_model(config.model, tokenizer.vocab_size, 512), tokenizer)
            for adapter in ("lora", "none"):
                out = Path(folder) / adapter
                command = [*FINETUNE, str(base), "--data", "demo-chat", "--out", str(out)]
                command += ["--budget", "2 steps", "--adapter", adapter, "--device.precision", args.precision, *QUIET]
                command += ["--eval-tokens", "512"]
                pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
                peaks[adapter] = _peak(pid)
        row = {"preset": preset, "precision": args.precision, "peak_mb": peaks, "ratio": peaks["lora"] / peaks["none"]}
        print(json.dumps(row), flush=True)


def _peak(pid: int) -> float:
    """Wait for a child; return its largest resident memory in MB."""
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"danlu finetune failed ({status})")
    return usage.ru_maxrss / 1024


def preferences(args: argparse.Namespace) -> None:
    """Learn to prefer of two real answers the one that begins politely; say how many held-out pairs follow."""
    rng = random.Random(0)
    rows = list(Conversations(Corpus(["demo-chat"], text_key=None)))
    rng.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in rows[: args.pairs]:
                assert isinstance(row, Conversation)
                question, answer = (m.content for m in row.messages)
                sides = {"chosen": f"您好，{answer}", "rejected": f"哼，{answer}"}
                file.write(json.dumps({"prompt": question, **sides}, ensure_ascii=False) + "\n")
        out = Path(folder) / "run"
        command = [*FINETUNE, str(resolve(args.base)), "--data", str(path), "--objective", "dpo"]
        command += ["--out", str(out), "--budget", args.budget, "--validation-share", "0.1", *QUIET]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for row in read_metrics(out):
            if row["kind"] == "eval":
                keys = ("step", "preferred", "margin", "kl_nats_per_token", "loss_nats_per_pair", "pairs")
                print(json.dumps({key: row[key] for key in keys}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("packing", "memory", "preferences"))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", default="small-25m,base-100m")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--budget", default="2 epochs")
    args = parser.parse_args()
    {"packing": packing, "memory": memory, "preferences": preferences}[args.part](args)


if __name__ == "__main__":
    main()
