"""`danlu prepare`: clean, deduplicate, split, tokenise and pack a corpus into shards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu import storage
from danlu.commands import SourceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError


@dataclass(frozen=True)
class Options(SourceOptions):
    """Make a shard folder: cleaned, deduplicated, split by hash, tokenised on all cores, packed."""

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, or `demo`"""
    tokenizer: Path | None = None
    """tokenizer folder (danlu tokenizer train makes one; any tokenizer.json folder will do)"""
    out: Path | None = None
    """shard folder to make"""
    validation_share: float = 0.05
    """share of the documents held out for validation"""
    min_chars: int = 1
    """drop documents with fewer characters"""
    dedup: bool = True
    """drop exact duplicates"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, prepare (or find it done already), print."""
    options = parse_flags(Options, argv, "danlu prepare")
    folder = required(
        options.tokenizer, "--tokenizer", "name its folder, or make one: danlu tokenizer train SRC --out DIR"
    )
    out = required(options.out, "--out", "name the shard folder to make")
    if not 0 < options.validation_share < 1:
        raise ConfigError(f"--validation-share {options.validation_share:g}: give a share between 0 and 1")
    manifest, already = prepare_sources(options, folder, out)
    splits = manifest["splits"]
    result = {
        "documents": manifest["documents"],
        "kept": manifest["kept"],
        "dropped": manifest["dropped"],
        "skipped": manifest["skipped"],
        "tokens": {name: entry["tokens"] for name, entry in splits.items()},
        "characters": sum(entry["characters"] for entry in splits.values()),
        "seconds": manifest["seconds"],
        "already_prepared": already,
        "data": str(out),
    }
    return finish(result, _text(result, out), options.json)


def prepare_sources(options: Options, folder: Path, out: Path) -> tuple[dict[str, Any], bool]:
    """Return the shard folder's manifest, and whether the same input had been prepared into it already."""
    from danlu.data.clean import EDITION, Counts, clean, default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.data.prepare import prepare
    from danlu.data.shards import FORMAT, open_shards
    from danlu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    corpus = options.corpus(options.sources)
    settings = [
        EDITION,
        FORMAT,
        corpus.fingerprint(),
        tokenizer.fingerprint,
        options.validation_share,
        options.min_chars,
        options.dedup,
    ]
    inputs = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    if (out / storage.MANIFEST).is_file():
        shards = open_shards(out)
        if shards.manifest.get("inputs") == inputs:
            return shards.manifest, True
    counts, about = Counts(), {"inputs": inputs, "sources": list(options.sources)}
    rules = [*default_rules(options.min_chars), *([ExactDedup()] if options.dedup else [])]

    def documents():
        yield from clean(corpus.track("preparing"), rules, counts)
        about.update(documents=counts.documents, kept=counts.kept, dropped=counts.dropped, skipped=corpus.skipped)

    return prepare(documents(), tokenizer, out, options.validation_share, about), False


def _text(result: dict[str, Any], out: Path) -> str:
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in result["dropped"].items()) or "none"
    tokens = result["tokens"]
    done = "already prepared: the same input, tokenizer and settings\n" if result["already_prepared"] else ""
    return (
        f"{done}{result['documents']:,} documents, {result['kept']:,} kept; dropped: {dropped}; "
        f"unreadable and passed over: {result['skipped']:,}\n"
        f"{result['characters']:,} characters, {tokens['train']:,} training tokens, "
        f"{tokens['validation']:,} validation tokens, {result['seconds']:.1f} s  ->  {out}"
    )
