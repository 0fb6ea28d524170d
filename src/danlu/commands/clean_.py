"""`danlu clean`: rules, deduplication and decontamination of raw text, at any size."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from tyro.conf import Positional

from danlu.commands import SourceOptions, finish, required
from danlu.config import Table
from danlu.configure import check, merge, parse_flags, read_toml
from danlu.data.cleaning.settings import CleanSettings, Format
from danlu.data.contamination import Decontaminate
from danlu.data.near import Near
from danlu.data.repeats import Repeats
from danlu.data.rules.perplexity import Limits
from danlu.data.rules.recipes import RECIPES, Recipe, RecipeName
from danlu.data.unreadable import counted
from danlu.errors import ConfigError

PROG = "danlu clean"


class RecipeFile(Table):
    """A TOML file for `--recipe`: the recipe it starts from, and what it sets otherwise."""

    recipe: RecipeName = "web"
    repeats: Repeats = Repeats()
    near: Near = Near()
    decontaminate: Decontaminate = Decontaminate()
    perplexity: Limits = Limits()
    set: Recipe = Recipe()


@dataclass(frozen=True)
class Options(SourceOptions):
    """Clean raw text: repair, judge and mask it by a recipe's rules; drop copies, near-duplicates, repeated passages.

    Records keep their other fields. An interrupted run goes on when the same command is given again. The folder made
    is a source: danlu prepare DIR --tokenizer …
    """

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub (danlu fetch --help) or names of `danlu corpora`"""
    recipe: str = "web"
    """kind of text: web, books, chat; or a TOML file: `recipe`, and tables [set], [near], [repeats],
    [decontaminate], [perplexity]"""
    out: Path | None = None
    """folder to make: part-00000.jsonl.zst …, report.html, manifest.json"""
    format: Format = "jsonl.zst"
    """kind of the files"""
    file_characters: int = CleanSettings().file_characters
    """characters of text that a file holds at most"""
    near: bool = True
    """drop near-duplicates (MinHash over character 5-grams)"""
    similarity: float = Near().similarity
    """share of such sequences that two texts must have in common (Jaccard) to be near-duplicates"""
    repeats: int = Repeats().more_than
    """cut passages that more documents than this hold; 0: never"""
    against: tuple[str, ...] = ()
    """evaluation files: documents that hold a text of theirs are dropped"""
    good: tuple[str, ...] = ()
    """sources of text that you call good: documents that surprise trigrams learnt from it are dropped"""
    report: bool = True
    """write report.html: what each rule took, with examples"""
    engine: Literal["local", "ray"] = "local"
    """who does the work: processes here, or a Ray cluster (RAY_ADDRESS; without it one is started here)"""
    workers: int | None = None
    """processes; by default one for each core"""
    set: Recipe = field(default_factory=Recipe)
    """thresholds of the recipe"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, clean (or find it done already), print."""
    file = _recipe_file(_named(argv))
    options = parse_flags(
        Options, argv, PROG, Options(similarity=file.near.similarity, repeats=file.repeats.more_than, set=file.set)
    )
    out = required(options.out, "--out", "name the folder to make")
    with _end_on_sigterm():
        result = clean_sources(options, file, out)
    return finish(result, _text(result), options.json)


@contextmanager
def _end_on_sigterm() -> Generator[None]:
    """End on SIGTERM, which schedulers send, as on Ctrl-C: workers first, then what is kept is said."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _named(argv: Sequence[str]) -> str:
    """Return what `--recipe` names; its thresholds are the other flags' defaults."""
    named = "web"
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--recipe":
            named = value
        elif flag.startswith("--recipe="):
            named = flag.removeprefix("--recipe=")
    return named


def _recipe_file(named: str) -> RecipeFile:
    """Return the settings of a recipe or of a file. Raises ConfigError for neither, or wrong ones in a file."""
    if named in RECIPES:
        tables: dict[str, Any] = {"recipe": named}
    elif named.endswith(".toml"):
        tables = read_toml(Path(named), f"Name a TOML file, or one of {', '.join(RECIPES)}: --recipe")
        for key in tables.keys() & Recipe.model_fields.keys():
            raise ConfigError(f"--recipe {named}: `{key}` is a threshold. Put it into the table [set]")
    else:
        raise ConfigError(f"--recipe {named}: there is none. Known: {', '.join(RECIPES)}, or a TOML file")
    base = RECIPES.get(tables.get("recipe", "web"), Recipe())
    return check(RecipeFile, merge({"set": base.model_dump()}, tables), f"--recipe {named}")


def clean_sources(options: Options, file: RecipeFile, out: Path) -> dict[str, Any]:
    """Clean what the options name, and return what `danlu clean --json` prints."""
    from danlu.data.cleaning.against import evaluation_texts
    from danlu.data.cleaning.engines import engine_of
    from danlu.data.cleaning.run import REPORT, clean_corpus

    started = time.monotonic()
    workers = _cores() if options.workers is None else options.workers
    if workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more")
    settings = _settings(options, file)
    corpus = options.corpus(options.sources)
    with engine_of(options.engine, workers) as engine:
        good = options.corpus(options.good) if options.good else None
        manifest = clean_corpus(corpus, settings, out, engine, evaluation_texts(options.against), good)
    names = ("documents", "kept", "characters", "dropped", "changed", "skipped", "resumed", "already_cleaned")
    return {
        **{name: manifest[name] for name in names},
        "skipped_files": len(manifest["skipped_files"]),
        "seconds": round(time.monotonic() - started, 3),
        "report": str(out / REPORT) if options.report else None,
        "out": str(out),
        "engine": options.engine,
        "workers": workers,
    }


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settings(options: Options, file: RecipeFile) -> CleanSettings:
    """Return the settings that flags and file make. Raises ConfigError for some that make no sense."""
    near = None
    if options.near:
        where = f"--similarity {options.similarity:g}"
        near = check(Near, {**file.near.model_dump(), "similarity": options.similarity}, where).model_dump()
    tables = {
        "recipe": file.recipe,
        "rules": options.set.model_dump(),
        "near": near,
        "decontaminate": file.decontaminate.model_dump(),
        "perplexity": file.perplexity.model_dump(),
        "repeats": {**file.repeats.model_dump(), "more_than": options.repeats} if options.repeats else None,
        "text_key": options.text_key,
        "format": options.format,
        "file_characters": options.file_characters,
        "report": options.report,
    }
    return check(CleanSettings, tables, PROG)


def _text(result: dict[str, Any]) -> str:
    rows = [f"  {reason:<22}{count:>12,}" for reason, count in result["dropped"].items()]
    changed = ", ".join(f"{rule} {count:,}" for rule, count in result["changed"].items()) or "none"
    done = ["already cleaned: the same input and settings"] if result["already_cleaned"] else []
    resumed = f" ({result['resumed']:,} parts were done already)" if result["resumed"] else ""
    return "\n".join(
        [
            *done,
            f"{result['documents']:,} documents, {result['kept']:,} kept; unreadable and passed over: "
            f"{counted(result['skipped'], result['skipped_files'])}; dropped:{'' if rows else ' none'}",
            *rows,
            f"altered: {changed}",
            f"{result['characters']:,} characters, {result['seconds']:.1f} s{resumed}  ->  {result['out']}",
            *([f"what each rule took: {result['report']}"] if result["report"] else []),
        ]
    )
