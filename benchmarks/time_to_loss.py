"""Bits per character against seconds and tokens: the article's recipes, tuned AdamW, and danlu's, on one corpus.

Every recipe trains for the same minutes, one after another, by `danlu train`; its evaluations are the curve. Time
counts from the run's first second, evaluations and checkpoints left out of none. At the end: how many times sooner,
and after how many times fewer tokens, danlu's recipe passes what each other one reached, and some values on the way.
--threads 1 lets two recipes run side by side, each on its own core, by two calls with --only. With --tokens a budget
of tokens takes the place of the minutes: for the curves against tokens alone, where the machine has other work too.

usage: python benchmarks/time_to_loss.py --data SHARDS [--size nano|25m] [--minutes 20] [--tokens N] [--out FOLDER]
           [--threads N] [--only NAME …]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from danlu.log import read_metrics

_ADAMW = ["--optim.name", "adamw", "--embedding", "random", "--optim.weight-decay", "0.1"]
_SHORT_WARM_UP = ["--schedule.warmup-steps", "8"]
"""The article's second recipe warms up for 1,000 steps, more than such a run has: it would never leave them."""
_SMALL_ARTICLE = ["--model.hidden-size", "256", "--model.num-hidden-layers", "6", "--model.num-attention-heads", "8"]
RECIPES: dict[str, dict[str, list[str]]] = {
    "nano": {
        "article-v1": ["article-v1", *_SMALL_ARTICLE],
        "article-v2": ["article-v2", *_SMALL_ARTICLE, *_SHORT_WARM_UP],
        "adamw": ["nano", *_ADAMW, "--optim.lr", "1e-3"],
        "danlu": ["nano"],
    },
    "25m": {
        "article-v1": ["article-v1"],
        "article-v2": ["article-v2", *_SHORT_WARM_UP],
        "adamw": ["small-25m", *_ADAMW, "--optim.lr", "2e-3"],
        "danlu": ["small-25m"],
    },
}


@dataclass(frozen=True)
class Point:
    """An evaluation: seconds and tokens since the start, bits per character."""

    seconds: float
    tokens: int
    bits: float


def train(name: str, args: argparse.Namespace) -> None:
    """Train one recipe, unless its run is there already."""
    run = args.out / name
    if not (run / "summary.json").is_file():
        command = [sys.executable, "-m", "danlu", "train", *RECIPES[args.size][name], "--resume", "--data", args.data]
        budget = f"{args.tokens} tokens" if args.tokens else f"{args.minutes} min"
        command += ["--out", str(run), "--budget", budget, "--eval-tokens", "30000", "--sample-tokens", "0"]
        command += ["--device.threads", str(args.threads)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read(run: Path) -> list[Point]:
    """Return a run's evaluations."""
    rows = [row for row in read_metrics(run) if row["kind"] == "eval"]
    return [Point(row["seconds"], row["tokens"], row["bits_per_char"]) for row in rows]


def reached(curve: list[Point], bits: float) -> Point | None:
    """Return where a curve passes `bits`, interpolated between evaluations; None if it never does.

    Nothing is known between the untrained start and the first evaluation after it: what lies there counts as there.
    """
    for before, after in pairwise(curve):
        if after.bits <= bits:
            if before is curve[0]:
                return after
            share = (before.bits - bits) / (before.bits - after.bits) if before.bits > after.bits else 1.0
            share = min(1.0, max(0.0, share))
            seconds = before.seconds + share * (after.seconds - before.seconds)
            return Point(seconds, round(before.tokens + share * (after.tokens - before.tokens)), bits)
    return None


def table(curves: dict[str, list[Point]]) -> str:
    """Return a Markdown table: what each recipe reached, and when danlu's was there."""
    lines = ["| recipe | bits/char | seconds | tokens | danlu there after | sooner | fewer tokens |", "|---" * 7 + "|"]
    for name, curve in curves.items():
        best = min(curve, key=lambda point: point.bits)
        there = reached(curves["danlu"], best.bits)
        row = f"| {name} | {best.bits:.3f} | {best.seconds:.0f} | {best.tokens:,} "
        if name == "danlu" or there is None:
            lines.append(row + "| | | |")
            continue
        times = (best.seconds / max(there.seconds, 1e-9), best.tokens / max(there.tokens, 1))
        lines.append(row + f"| {there.seconds:.0f} s, {there.tokens:,} | {times[0]:.1f}× | {times[1]:.1f}× |")
    return "\n".join(lines)


def thresholds(curves: dict[str, list[Point]]) -> str:
    """Return a Markdown table: when each recipe passed some bits/char, and how many times sooner danlu's did."""
    others = [name for name in curves if name != "danlu"]
    first = max(min(point.bits for point in curve) for curve in curves.values())
    last = min(min(point.bits for point in curves[name]) for name in others)
    levels = sorted({math.ceil(4 * last) / 4 + 0.25 * n for n in range(40)} | {first}, reverse=True)
    start = min(curve[0].bits for curve in curves.values())
    lines = [f"| bits/char | danlu | {' | '.join(others)} |", "|---" * (2 + len(others)) + "|"]
    for level in [level for level in levels if level < start]:
        ours, cells = reached(curves["danlu"], level), []
        if ours is None:
            continue
        for name in others:
            theirs = reached(curves[name], level)
            times = theirs and (theirs.seconds / max(ours.seconds, 1e-9), theirs.tokens / max(ours.tokens, 1))
            cells.append(
                f"{theirs.seconds:.0f} s ({times[0]:.1f}×), {theirs.tokens:,} tokens ({times[1]:.1f}×)"
                if theirs and times
                else "never"
            )
        lines.append(f"| {level:.2f} | {ours.seconds:.0f} s, {ours.tokens:,} tokens | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(curves: dict[str, list[Point]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for name, curve in curves.items():
        bits = [point.bits for point in curve]
        axes[0].plot([point.seconds / 60 for point in curve], bits, marker="o", markersize=3, label=name)
        axes[1].plot([point.tokens / 1e6 for point in curve], bits, marker="o", markersize=3, label=name)
    axes[0].set(xlabel="minutes", ylabel="bits per character, held-out text")
    axes[1].set(xlabel="million tokens (positions)")
    axes[0].set_ylim(top=1.02 * max(point.bits for curve in curves.values() for point in curve[1:]))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", default="nano", choices=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/time_to_loss"))
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="train these, and draw all whose runs are there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recipes = list(reversed(RECIPES[args.size]))
    for name in args.only or recipes:
        train(name, args)
    curves = {name: read(args.out / name) for name in recipes if (args.out / name / "summary.json").is_file()}
    if "danlu" not in curves:
        return
    (args.out / "curves.json").write_text(json.dumps({n: [vars(p) for p in c] for n, c in curves.items()}))
    text = f"{table(curves)}\n\n{thresholds(curves)}"
    (args.out / "table.md").write_text(text + "\n")
    print(text)
    picture(curves, args.out / "curves.png")


if __name__ == "__main__":
    main()
