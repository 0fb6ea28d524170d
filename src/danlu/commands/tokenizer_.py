"""`danlu tokenizer train`: learn a tokenizer from a corpus."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu import log, storage
from danlu.commands import SourceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError

_REPORTED_TEXTS = 2000


@dataclass(frozen=True)
class Options(SourceOptions):
    """Train a byte-level BPE tokenizer (Qwen2's pre-tokeniser) on cleaned text.

    Later copies of a document are dropped; texts that differ in nothing but white space count as copies.
    """

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub (danlu fetch --help) or names of `danlu corpora`"""
    vocab_size: int = 6400
    """entries, special tokens included"""
    out: Path | None = None
    """folder to make"""
    min_chars: int = 1
    """drop documents with fewer characters"""
    sample_chars: int = 10_000_000
    """learn from at most so many characters, documents chosen by hash (memory: some 230 bytes for each)"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, train, report how well it fits."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: danlu tokenizer train SRC… --vocab-size N --out DIR [--json]\n\nSee danlu tokenizer train --help")
        return 0
    if argv[0] != "train":
        raise ConfigError(f"danlu tokenizer: {argv[0]!r} is nothing it does. Known: train")
    options = parse_flags(Options, argv[1:], "danlu tokenizer train")
    out = required(options.out, "--out", "name the folder to write the tokenizer to")
    if options.sample_chars < 1:
        raise ConfigError(f"--sample-chars {options.sample_chars:,}: give 1 or more")
    storage.require_absent(out)
    result = train(options, out)
    return finish(result, _text(result, out), options.json)


def train(options: Options, out: Path) -> dict[str, Any]:
    """Stream the cleaned texts into a sample and learn from it; the report is of the sample's first texts."""
    from danlu.data.clean import Counts, clean, default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.data.passages import Passages
    from danlu.data.sample import sample
    from danlu.tokenizer import train_tokenizer

    started = time.monotonic()
    counts, corpus = Counts(), options.corpus(options.sources)
    rules = [*default_rules(options.min_chars), ExactDedup()]
    passages = Passages(clean(corpus.track("reading"), rules, counts))
    texts = sample(passages, options.sample_chars)
    learned_from = sum(map(len, texts))
    part = f" of {counts.characters:,} (--sample-chars)" if learned_from < counts.characters else ""
    log.say(f"learning {options.vocab_size:,} entries from {learned_from:,} characters{part}")
    tokenizer = train_tokenizer(texts, options.vocab_size)
    tokenizer.save(out)
    return tokenizer.report(texts[:_REPORTED_TEXTS]) | {
        "tokenizer": str(out),
        "revisions": corpus.revisions,
        "documents": counts.kept,
        "read": counts.documents,
        "dropped": dict(counts.dropped),
        "skipped": corpus.skipped,
        "cut": passages.cut,
        "characters": counts.characters,
        "sample_characters": learned_from,
        "seconds": round(time.monotonic() - started, 3),
    }


def _text(result: dict[str, Any], out: Path) -> str:
    from danlu.data.clean import account

    counts = (result[name] for name in ("read", "documents", "dropped", "skipped", "cut"))
    return (
        f"{account(*counts)}\n"
        f"learned from {result['sample_characters']:,} of {result['characters']:,} characters\n"
        f"{result['vocab_size']:,} entries, {result['chars_per_token']:.3f} characters a token, "
        f"coverage {result['coverage']:.2%}, {result['byte_fragments']:,} byte fragments, "
        f"{result['seconds']:.1f} s  ->  {out}"
    )
