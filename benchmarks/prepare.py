"""`danlu prepare` beside tokenising with transformers: the same .jsonl, the same tokenizer, the same run.

Everything danlu does is counted (reading, cleaning, deduplication, splitting, tokenising, writing shards); the others
only read and tokenise: a document at a time, and as the article's dataset class does, padded to 512 and made tensors.
usage: python benchmarks/prepare.py [--source FILE.jsonl] [--rounds 5]     (default: the demo corpus)
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer

from danlu.commands.prepare_ import Options, prepare_sources
from danlu.data.sources import Corpus
from danlu.tokenizer import train_tokenizer


def texts_of(source: Path):
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = args.source or work / "demo.jsonl"
        if args.source is None:
            with source.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps({"text": d.text}, ensure_ascii=False) + "\n" for d in Corpus(["demo"]))
        train_tokenizer(texts_of(source), 6400).save(work / "tokenizer")
        theirs = AutoTokenizer.from_pretrained(work / "tokenizer")

        def danlu() -> None:
            shutil.rmtree(work / "shards", ignore_errors=True)
            prepare_sources(Options(sources=(str(source),), dedup=False), work / "tokenizer", work / "shards")

        def per_document() -> None:
            for text in texts_of(source):
                theirs(text)["input_ids"]

        def padded() -> None:
            for text in texts_of(source):
                row = theirs(text, max_length=512, padding="max_length", truncation=True, return_tensors="pt")
                ids, mask = row["input_ids"].squeeze(), row["attention_mask"].squeeze()
                assert all(map(torch.is_tensor, (ids[:-1], ids[1:], mask[1:])))

        report({"danlu prepare": danlu, "transformers, per document": per_document, "padded": padded}, args.rounds)
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


if __name__ == "__main__":
    main()
