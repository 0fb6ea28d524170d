"""`danlu prepare`: clean, deduplicate, split, tokenise and pack a corpus into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from danlu import storage
from danlu.commands import SourceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.data.sources import Corpus
    from danlu.tokenizer import Tokenizer
    from danlu.types import Document


@dataclass(frozen=True)
class Options(SourceOptions):
    """Make a shard folder: cleaned, deduplicated, split by hash, tokenised on all cores, packed.

    Few documents (under 100) are cut into passages first, and in any corpus those of more than 200,000 characters.
    """

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub (danlu fetch --help) or names of `danlu corpora`"""
    tokenizer: Path | None = None
    """tokenizer folder (danlu tokenizer train makes one; any tokenizer.json folder will do)"""
    out: Path | None = None
    """shard folder to make"""
    validation_share: float = 0.05
    """share of the documents held out for validation"""
    min_chars: int = 1
    """drop documents with fewer characters"""
    dedup: bool = True
    """drop exact duplicates; texts that differ in nothing but white space count as such"""
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
        "cut": manifest["cut"],
        "lossless": manifest["lossless"],
        "tokens": {name: entry["tokens"] for name, entry in splits.items()},
        "characters": sum(entry["characters"] for entry in splits.values()),
        "seconds": manifest["seconds"],
        "already_prepared": already,
        "data": str(out),
    }
    return finish(result, _text(result, out), options.json)


def prepare_sources(options: Options, folder: Path, out: Path) -> tuple[dict[str, Any], bool]:
    """Return the shard folder's manifest, and whether the same input had been prepared into it already."""
    from danlu.data.clean import Counts, clean, default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.data.prepare import prepare
    from danlu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    corpus = options.corpus(options.sources)
    settings = _settings(options, tokenizer, corpus)
    done = _done(out, settings, corpus)
    if done is not None:
        return done, True
    counts = Counts()
    about = {"sources": list(options.sources), "revisions": corpus.revisions, "settings": settings}
    rules = [*default_rules(options.min_chars), *([ExactDedup()] if options.dedup else [])]

    def documents() -> Iterator[Document]:
        about["inputs"] = _inputs(settings, corpus)  # reads all of it: not before `prepare` has made room for `out`
        yield from clean(corpus.track("preparing"), rules, counts)
        about.update(documents=counts.documents, kept=counts.kept, dropped=counts.dropped, skipped=corpus.skipped)

    return prepare(documents(), tokenizer, out, options.validation_share, about), False


def _settings(options: Options, tokenizer: Tokenizer, corpus: Corpus) -> dict[str, Any]:
    """Return what can be known, without reading the corpus, of what decides the shards."""
    from danlu.data.clean import EDITION
    from danlu.data.shards import FORMAT

    return {
        "edition": EDITION,
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "corpus_bytes": corpus.bytes_total,
        "validation_share": options.validation_share,
        "min_chars": options.min_chars,
        "dedup": options.dedup,
    }


def _inputs(settings: dict[str, Any], corpus: Corpus) -> str:
    return hashlib.sha256(json.dumps([settings, corpus.fingerprint()]).encode()).hexdigest()


def _done(out: Path, settings: dict[str, Any], corpus: Corpus) -> dict[str, Any] | None:
    """Return the manifest of `out` if it holds the same input prepared alike. The corpus is read last."""
    from danlu.data.shards import open_shards

    if (out / storage.MANIFEST).is_file():
        manifest = open_shards(out).manifest
        if manifest.get("settings") == settings and manifest["inputs"] == _inputs(settings, corpus):
            return manifest
    return None


def _text(result: dict[str, Any], out: Path) -> str:
    from danlu.data.clean import account

    tokens = result["tokens"]
    done = "already prepared: the same input, tokenizer and settings\n" if result["already_prepared"] else ""
    counts = (result[name] for name in ("documents", "kept", "dropped", "skipped", "cut"))
    return (
        f"{done}{account(*counts)}\n"
        f"{result['characters']:,} characters, {tokens['train']:,} training tokens, "
        f"{tokens['validation']:,} validation tokens, {result['seconds']:.1f} s  ->  {out}"
    )
