"""`danlu prepare`: its speed and memory on a large file, and beside tokenising with transformers on the same lines.

Everything danlu does is counted (reading, cleaning, exact deduplication, splitting, tokenising, writing shards). The
others only read and tokenise: a document at a time, and as the article's dataset class does, padded to 512 and made
tensors. Each round runs all of them, one after another, on the same lines: of a generated file, 20,000 of all of it.
usage: python benchmarks/prepare.py [--source FILE.jsonl] [--rounds 5]     (default: the demo corpus)
       python benchmarks/prepare.py --folder DIR --gigabytes 2             (a generated file like pretrain_hq)
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from danlu.data.sources import Corpus
from danlu.tokenizer import train_tokenizer

REAL_LINES = Path(__file__).parents[1] / "tests" / "data" / "pretrain_hq_head6.jsonl"
SHORTEST, LONGEST = 135, 880  # characters of a line; spread over the bytes of a file as below, their mean is some 417
LEARNED_FROM = 10_000
WHOLE = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from danlu.cli import main
status = main(sys.argv[1:])
seconds = time.perf_counter() - started
held = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(f'{{"status": {status}, "seconds": {seconds}, "peak_megabytes": {int(held) * 1024 / 1e6}}}')
"""
"""Runs in a process of its own: the peak of resident memory is then that of one `danlu prepare`, and nothing else."""


def generate(path: Path, size: int, seed: int = 0) -> None:
    """Write lines like pretrain_hq's, sorted by length, until `size` bytes.

    Sentences are those of its first lines and of the demo corpus; each is joined of two halves, so that neither lines
    nor runs of letters come again as often as a few megabytes of sentences would.
    """
    texts = [json.loads(line)["text"] for line in REAL_LINES.read_text(encoding="utf-8").splitlines()]
    texts += [document.text for document in Corpus(["demo"])]
    marks = re.compile(r"<\|im_(?:start|end)\|>|\s+")
    sentences = [s for text in texts for s in re.split("(?<=[。！？])", marks.sub("", text)) if 8 <= len(s) <= 60]
    rng, written = np.random.default_rng(seed), 0
    with path.open("wb") as file:
        while written < size:
            wanted = SHORTEST + (LONGEST - SHORTEST) * written / size
            text = ""
            while len(text) < wanted - 40:
                left, right, third, fourth = (sentences[i] for i in rng.integers(len(sentences), size=4).tolist())
                joined = left[: len(left) // 2] + right[len(right) // 2 :] + third[: len(third) // 3] + fourth
                text += f"{' ' if text else ''}<|im_start|>{joined}<|im_end|>"
            written += file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())


def texts_of(source: Path) -> Iterator[str]:
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def large_file(folder: Path, gigabytes: float) -> Path:
    """Return the generated file of that size, made where it is not there yet."""
    path = folder / f"like-pretrain-hq-{gigabytes:g}GB.jsonl"
    if not path.is_file():
        generate(scratch := path.with_suffix(".part"), round(gigabytes * 1e9))
        scratch.rename(path)
    return path


def measure_whole(source: Path, tokenizer: Path, out: Path) -> None:
    """Prepare all of a file once; print megabytes a second and the peak of resident memory."""
    flags = ["prepare", str(source), "--tokenizer", str(tokenizer), "--out", str(out), "--json"]
    done = subprocess.run([sys.executable, "-c", WHOLE, *flags], stdout=subprocess.PIPE, check=True, text=True)
    said, taken = map(json.loads, done.stdout.splitlines()[-2:])
    megabytes = source.stat().st_size / 1e6
    print(
        f"{source.name}: {megabytes:,.0f} MB, {said['documents']:,} documents, dropped {said['dropped']}, "
        f"{sum(said['tokens'].values()):,} tokens\n"
        f"danlu prepare: {taken['seconds']:.1f} s, {megabytes / taken['seconds']:.2f} MB/s, "
        f"peak {taken['peak_megabytes']:.0f} MB resident"
    )


def compare(source: Path, tokenizer: Path, work: Path, rounds: int) -> None:
    """Run danlu and the others in turn on the same file."""
    from danlu.commands.prepare_ import Options, prepare_sources

    theirs = AutoTokenizer.from_pretrained(tokenizer)

    def danlu() -> None:
        shutil.rmtree(work / "shards", ignore_errors=True)
        prepare_sources(Options(sources=(str(source),)), tokenizer, work / "shards")

    def per_document() -> None:
        for text in texts_of(source):
            theirs(text)["input_ids"]

    def padded() -> None:
        for text in texts_of(source):
            row = theirs(text, max_length=512, padding="max_length", truncation=True, return_tensors="pt")
            ids, mask = row["input_ids"].squeeze(), row["attention_mask"].squeeze()
            assert all(map(torch.is_tensor, (ids[:-1], ids[1:], mask[1:])))

    report({"danlu prepare": danlu, "transformers, per document": per_document, "padded": padded}, rounds)
    print(f"{sum(1 for _ in texts_of(source)):,} documents, {source.stat().st_size / 1e6:.1f} MB")


def report(runs: dict[str, Callable[[], None]], rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, go in runs.items():
            start = time.perf_counter()
            go()
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        ratios = [other / ours for other, ours in zip(taken, seconds["danlu prepare"], strict=True)]
        print(
            f"{name:<28}{statistics.median(taken):7.2f} s (min {min(taken):.2f}, max {max(taken):.2f})  "
            f"danlu takes {statistics.median(ratios):.2f}x less"
        )


def every(source: Path, lines: int, out: Path) -> Path:
    """Write about so many lines of a file, taken evenly from all of it, and return where."""
    with source.open("rb") as file:
        step = max(1, sum(1 for _ in file) // lines)
    with source.open("rb") as file, out.open("wb") as chosen:
        chosen.writelines(islice(file, 0, None, step))
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, help="a .jsonl with `text`")
    parser.add_argument("--folder", type=Path, help="where the generated file lies, or is to be made")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the generated file, in 10^9 bytes")
    parser.add_argument("--lines", type=int, default=20_000, help="lines of the generated file that all run on")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        work = Path(scratch)
        if args.folder:
            large = large_file(args.folder, args.gigabytes)
            source = every(large, args.lines, work / "part.jsonl")
        else:
            source = args.source or work / "demo.jsonl"
        if not source.is_file():
            with source.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps({"text": d.text}, ensure_ascii=False) + "\n" for d in Corpus(["demo"]))
        train_tokenizer(islice(texts_of(source), LEARNED_FROM if args.folder else None), 6400).save(work / "tokenizer")
        if args.folder:
            measure_whole(large, work / "tokenizer", work / "whole")
        compare(source, work / "tokenizer", work, args.rounds)


if __name__ == "__main__":
    main()
