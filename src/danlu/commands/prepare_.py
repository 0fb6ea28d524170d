"""`danlu prepare`: clean, deduplicate, split, tokenise and pack a corpus into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from danlu import storage
from danlu.commands import SourceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.data.clean import Rule
    from danlu.data.mix import Mix
    from danlu.data.prepare import Portion
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
    mix: Path | None = None
    """TOML file instead of sources: of each a table [[source]] with path, and epochs or weight (docs/decisions/0022)"""
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
    splits, mix = manifest["splits"], manifest.get("mix", [])
    result = {
        "documents": manifest["documents"],
        "kept": manifest["kept"],
        "dropped": manifest["dropped"],
        "skipped": manifest["skipped"],
        "skipped_files": len(manifest.get("skipped_files", {})),
        "cut": manifest["cut"],
        "lossless": manifest["lossless"],
        "tokens": {name: entry["tokens"] for name, entry in splits.items()},
        "characters": sum(entry["characters"] for entry in splits.values()),
        "mix": [_outline(entry) for entry in mix],
        "seconds": manifest["seconds"],
        "already_prepared": already,
        "data": str(out),
    }
    return finish(result, _text(result, out), options.json)


def prepare_sources(options: Options, folder: Path, out: Path) -> tuple[dict[str, Any], bool]:
    """Return the shard folder's manifest, and whether the same input had been prepared into it already."""
    from danlu.data.clean import default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.data.prepare import prepare_mix
    from danlu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    mix, corpora = _sources(options)
    settings = _settings(options, tokenizer, corpora, mix)
    done = _done(out, settings, corpora)
    if done is not None:
        return done, True
    about: dict[str, Any] = {
        "sources": [spec for corpus in corpora for spec in corpus.specs],
        "revisions": {spec: revision for corpus in corpora for spec, revision in corpus.revisions.items()},
        "settings": settings,
    }
    rules = [*default_rules(options.min_chars), *([ExactDedup()] if options.dedup else [])]

    def before_reading() -> None:
        about["inputs"] = _inputs(settings, corpora)  # reads all of it: not before room is made for `out`

    portions = _portions(corpora, mix, rules, about, before_reading)
    return prepare_mix(portions, mix, tokenizer, out, options.validation_share, about), False


def _sources(options: Options) -> tuple[Mix | None, list[Corpus]]:
    """Open what is named: one corpus of all sources, or one for each source of a mix."""
    if options.mix is None:
        return None, [options.corpus(options.sources)]
    from danlu.data.mix import read_mix

    if options.sources:
        raise ConfigError(
            f"{options.sources[0]}: is named beside --mix {options.mix}, which names all sources. "
            "Add it there as a [[source]], or leave it out"
        )
    mix = read_mix(options.mix)
    corpora: list[Corpus] = []
    readers: dict[Path, str] = {}
    for row in mix.source:
        own = {key: value for key in ("text_key", "txt_unit") if (value := getattr(row, key)) is not None}
        corpora.append(replace(options, **own).corpus([row.path]))
        for path in map(Path.resolve, corpora[-1].files):
            if path in readers:
                raise ConfigError(f"{options.mix}: {path} is read by two sources, {readers[path]!r} and {row.name!r}")
            readers[path] = row.name
    return mix, corpora


def _portions(
    corpora: list[Corpus], mix: Mix | None, rules: list[Rule], about: dict[str, Any], before: Callable[[], None]
) -> list[Portion]:
    """Return each source's cleaned documents; what becomes of them is counted in its entry, and summed in `about`."""
    from danlu.data.clean import Counts, clean
    from danlu.data.prepare import Portion

    total = Counts()

    def documents(number: int, entry: dict[str, Any]) -> Iterator[Document]:
        if number == 0:
            before()
        corpus, counts = corpora[number], Counts()
        yield from clean(corpus.track(f"preparing {entry['name']}" if mix else "preparing"), rules, counts)
        total.documents, total.kept = total.documents + counts.documents, total.kept + counts.kept
        total.dropped.update(counts.dropped)
        entry.update(documents=counts.documents, kept=counts.kept, dropped=counts.dropped, skipped=corpus.skipped)
        skipped = sum(corpus.skipped for corpus in corpora)
        files = {path: reason for corpus in corpora for path, reason in corpus.skipped_files.items()}
        about.update(documents=total.documents, kept=total.kept, dropped=total.dropped)
        about.update(skipped=skipped, skipped_files=files)

    entries = [row.model_dump(exclude_none=True) for row in mix.source] if mix else [{}]
    return [Portion(documents(number, entry), entry) for number, entry in enumerate(entries)]


def _settings(options: Options, tokenizer: Tokenizer, corpora: list[Corpus], mix: Mix | None) -> dict[str, Any]:
    """Return what can be known, without reading the corpus, of what decides the shards."""
    from danlu.data.clean import EDITION
    from danlu.data.shards import FORMAT

    return {
        "edition": EDITION,
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "corpus_bytes": sum(corpus.bytes_total for corpus in corpora),
        "validation_share": options.validation_share,
        "min_chars": options.min_chars,
        "dedup": options.dedup,
        **({"mix": mix.model_dump(mode="json")["source"]} if mix else {}),
    }


def _inputs(settings: dict[str, Any], corpora: list[Corpus]) -> str:
    contents = [corpus.fingerprint() for corpus in corpora]
    return hashlib.sha256(json.dumps([settings, *contents]).encode()).hexdigest()


def _done(out: Path, settings: dict[str, Any], corpora: list[Corpus]) -> dict[str, Any] | None:
    """Return the manifest of `out` if it holds the same input prepared alike. The corpora are read last."""
    from danlu.data.shards import open_shards

    if (out / storage.MANIFEST).is_file():
        manifest = open_shards(out).manifest
        if manifest.get("settings") == settings and manifest["inputs"] == _inputs(settings, corpora):
            return manifest
    return None


def _text(result: dict[str, Any], out: Path) -> str:
    from danlu.data.clean import account

    tokens = result["tokens"]
    done = "already prepared: the same input, tokenizer and settings\n" if result["already_prepared"] else ""
    counts = (result[name] for name in ("documents", "kept", "dropped", "skipped", "cut", "skipped_files"))
    return (
        f"{done}{account(*counts)}\n{_mix_lines(result['mix'])}"
        f"{result['characters']:,} characters, {tokens['train']:,} training tokens, "
        f"{tokens['validation']:,} validation tokens, {result['seconds']:.1f} s  ->  {out}"
    )


def _outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a source's entry of the manifest with its splits' tokens and characters alone."""
    splits = {name: entry[name] for name in ("train", "validation")}
    about = {key: value for key, value in entry.items() if key not in splits}
    tokens = {name: counts["tokens"] for name, counts in splits.items()}
    return {**about, "tokens": tokens, "characters": sum(counts["characters"] for counts in splits.values())}


def _mix_lines(mix: list[dict[str, Any]]) -> str:
    """Say of each source what an epoch of the mix reads, and of one that is read very often what is known of that."""
    width = max((len(entry["name"]) for entry in mix), default=0)
    lines = [
        f"  {entry['name']:<{width}}  {entry['kept']:,} documents, {entry['tokens']['train']:,} training tokens "
        f"x {entry['epochs']:.4g} epochs: {entry['share']:.1%} of the mix"
        + (" (beyond 4 passes repetition teaches less and less)" if entry["epochs"] > 4 else "")
        for entry in mix
    ]
    return "".join(line + "\n" for line in lines)
