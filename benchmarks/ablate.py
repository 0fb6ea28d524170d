"""One change against the baseline, several seeds each, in turn: the difference with its confidence interval.

Each variant is a name and the flags of `danlu train` that it adds; the baseline adds none. Runs of one seed differ
in nothing else, so differences are taken seed by seed. A row for each run is appended to --results, and runs that
have one already are not repeated; --table prints all of that file as Markdown. --recipes writes docs/recipes.md of the
presets and of the runs that are kept beside this script.

usage: python benchmarks/ablate.py --data SHARDS [--preset nano] [--budget "600k tokens"] [--seeds 3]
           [--results ablations.jsonl] "NAME=--flag value …" …
       python benchmarks/ablate.py --results ablations.jsonl --table
       python benchmarks/ablate.py --recipes
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.log import read_metrics
from danlu.model import build_model

BASELINE = "baseline"
HERE = Path(__file__).parent
KEPT = HERE / "ablations.jsonl"
RECIPES = HERE.parent / "docs" / "recipes.md"
PRESETS = ("nano", "small-25m", "base-100m", "article-v1", "article-v2")
_VOCABULARY = 6400
_SHOWN = ("lr", "muon_lr", "muon_steps", "momentum", "betas", "weight_decay", "clip")
# Student's t, 97.5 %, by degrees of freedom
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def train_once(args: argparse.Namespace, flags: str, seed: int) -> dict[str, Any]:
    """Train in a process and a folder of its own; return its quality at the end and its speed."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "danlu", "train", args.preset, "--data", args.data, "--out", str(run)]
        command += ["--budget", args.budget, "--seed", str(seed), "--eval-tokens", str(args.eval_tokens)]
        command += ["--eval-every", "1000000", "--checkpoint-every", "1000000", "--sample-tokens", "0", "--json"]
        done = subprocess.run([*command, *shlex.split(flags)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} {flags}\n{done.stderr[-2000:]}")
        rows = [row for row in read_metrics(run) if row["kind"] == "train"]
    result = json.loads(done.stdout.splitlines()[-1])
    speed = statistics.median(row["tokens_per_second"] for row in rows)
    return {"bits_per_char": result["bits_per_char"], "tokens": result["tokens"], "tokens_per_second": speed}


def study(args: argparse.Namespace) -> str:
    """Name what all rows of a table share."""
    return f"{args.preset}, {args.budget}, evaluated on {args.eval_tokens:,} tokens"


def known(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def difference(ours: dict[int, float], base: dict[int, float]) -> tuple[float, float]:
    """Return the mean of the paired differences and the half width of its 95 % interval (infinite for one seed)."""
    pairs = [ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys())]
    mean = statistics.fmean(pairs)
    n = len(pairs)
    return mean, (_T.get(n - 1, 1.96) * statistics.stdev(pairs) / math.sqrt(n) if n > 1 else math.inf)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table a study: bits/char, the difference to the baseline, and the speed beside it."""
    parts: list[str] = []
    for name in dict.fromkeys(row["study"] for row in rows):
        inside = [row for row in rows if row["study"] == name]
        bits: dict[str, dict[int, float]] = {}
        speeds: dict[str, list[float]] = {}
        for row in inside:
            bits.setdefault(row["variant"], {})[row["seed"]] = row["bits_per_char"]
            speeds.setdefault(row["variant"], []).append(row["tokens_per_second"])
        base, base_speed = bits[BASELINE], statistics.median(speeds[BASELINE])
        flags = {row["variant"]: row["flags"] for row in inside}
        parts += [
            f"### {name}",
            "",
            "| variant | flags | seeds | bits/char | difference | 95 % | speed |",
            "|---" * 7 + "|",
        ]
        for variant, ours in sorted(bits.items(), key=lambda pair: statistics.fmean(pair[1].values())):
            mean, half = difference(ours, base) if variant != BASELINE else (0.0, 0.0)
            speed = statistics.median(speeds[variant]) / base_speed
            interval = "one seed" if math.isinf(half) else f"± {half:.3f}"
            parts.append(
                f"| {variant} | `{flags[variant] or 'none'}` | {len(ours)} | {statistics.fmean(ours.values()):.3f} "
                f"| {mean:+.3f} | {interval} | {speed:.2f}× |"
            )
        parts.append("")
    return "\n".join(parts)


def preset_table() -> str:
    """Return a Markdown table of what the presets train with."""
    configs = {name: check(TrainConfig, read_tables(name), name) for name in PRESETS}
    rows: dict[str, list[str]] = {"parameters": [], "embedding": [], "context": [], "documents apart": []}
    rows |= {"tokens a step": []} | {f"optim.{key}": [] for key in ("name", *_SHOWN)} | {"schedule": []}
    for config in configs.values():
        model, optim, schedule = build_model(config.model, _VOCABULARY, config.context), config.optim, config.schedule
        rows["parameters"].append(f"{sum(p.numel() for p in model.parameters()):,}")
        rows["embedding"].append(config.embedding)
        stretches = [f"{s.window} to {s.until:.0%}" for s in schedule.stretches]
        rows["context"].append(", then ".join([*stretches, f"{config.context}"]))
        rows["documents apart"].append({"auto": "on a CPU", True: "yes", False: "no"}[config.document_mask])
        sizes = [s.batch_tokens for s in schedule.stretches] + [config.batch_tokens]
        rows["tokens a step"].append(", then ".join(f"{size:,}" for size in dict.fromkeys(sizes)))
        for key in ("name", *_SHOWN):
            muons = key.startswith("muon") or key == "momentum"
            rows[f"optim.{key}"].append("" if muons and optim.name != "muon" else str(getattr(optim, key)))
        decay = f", decay over {schedule.decay:.0%}" if schedule.shape == "wsd" else ""
        halved = f", batches halved below {schedule.least_steps} steps" if schedule.least_steps else ""
        rows["schedule"].append(f"{schedule.shape}, {schedule.warmup_steps} steps of warm-up{decay}{halved}")
    lines = [f"| | {' | '.join(configs)} |", "|---" * (len(configs) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def recipes() -> str:
    """Return docs/recipes.md."""
    return f"""# Recipes

Written by `python benchmarks/ablate.py --recipes` of the presets as they are and of the runs in
`benchmarks/ablations.jsonl`. What was tried by hand, and what each finding led to, is in the [log](log.md).

## What the presets train with

Sizes at {_VOCABULARY:,} entries.

{preset_table()}

## One change at a time

Each line is the preset of that day with the flags beside it; runs of one seed differ in nothing else. A difference
below zero is a gain. One seed moves a run of this length by about a hundredth of a bit, so single seeds show large
effects only. Two runs went on at a time, each on a core of its own: a speed beside the baseline's is a rough one.

{table(known(KEPT))}"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--budget", default="600k tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eval-tokens", type=int, default=60_000)
    parser.add_argument("--results", type=Path, default=Path("ablations.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--recipes", action="store_true")
    parser.add_argument("variants", nargs="*")
    args = parser.parse_args()
    if args.recipes:
        RECIPES.write_text(recipes())
        return
    if args.table:
        print(table(known(args.results)))
        return
    variants = {BASELINE: ""} | dict(variant.split("=", 1) for variant in args.variants)
    done = {(row["study"], row["variant"], row["seed"]) for row in known(args.results)}
    for seed in range(args.seeds):
        for variant, flags in variants.items():
            if (study(args), variant, seed) in done:
                continue
            about = {"study": study(args), "variant": variant, "flags": flags, "seed": seed}
            row = about | train_once(args, flags, seed)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"seed {seed}  {variant:<24} {row['bits_per_char']:.4f}  {row['tokens_per_second']:,.0f} tokens/s",
                flush=True,
            )
    print(table([row for row in known(args.results) if row["study"] == study(args)]))


if __name__ == "__main__":
    main()
