"""`danlu eval`: bits per character of any checkpoint on any text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from danlu import log, storage
from danlu.commands import SourceOptions, finish, required
from danlu.config import parse_flags
from danlu.errors import DataError


@dataclass(frozen=True)
class Options(SourceOptions):
    """Score every document alone: eos, then its raw text, in windows that do not overlap."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder of danlu or transformers, or a run folder"""
    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, or a shard folder (its validation split)"""
    window: int | None = None
    """tokens of a window; the model's context by default"""
    train_text: tuple[str, ...] = ()
    """what the model was trained on (sources or a shard folder): adds the bigram and xz baselines"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """compute type"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, score, print."""
    options = parse_flags(Options, argv, "danlu eval")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    if not options.sources:
        raise DataError("danlu eval: no text is named. Give files, folders, globs, `demo` or a shard folder")
    from danlu.evaluate.foreign import load_any
    from danlu.evaluate.loss import score_texts
    from danlu.train.devices import DTYPES

    model, tokenizer = load_any(folder)
    model.compute_dtype = DTYPES[options.precision]
    with log.progress("tokens") as bar:
        task = bar.add_task("scoring", total=None, note="")
        texts = texts_of(options, options.sources)
        score = score_texts(model, tokenizer, texts, options.window, lambda n: bar.advance(task, n))
    if not score.characters:
        raise DataError(f"{', '.join(options.sources)}: holds no text to score")
    if not math.isfinite(score.nats):
        raise DataError(f"{folder}: its loss on this text is {score.nats}: the weights are not finite")
    result = score.as_dict() | {"tokens": score.tokens, "baselines": _baselines(options)}
    return finish(result, _text(result), options.json)


def texts_of(options: SourceOptions, sources: Iterable[str], split: str = "validation") -> Iterator[str]:
    """Yield raw texts of sources; of a shard folder, those of one split."""
    from danlu.data.shards import open_shards
    from danlu.evaluate import baselines
    from danlu.tokenizer import Tokenizer

    for source in sources:
        if (Path(source) / storage.MANIFEST).is_file():
            shards = open_shards(Path(source))
            yield from baselines.texts_of(shards, Tokenizer.load(shards.tokenizer_folder), split)
        else:
            yield from (document.text for document in options.corpus([source]))


def _baselines(options: Options) -> dict[str, Any]:
    """Measure bigrams and xz on the same text, where the training text is named."""
    from danlu.evaluate import baselines

    if not options.train_text:
        return {}
    log.say("baselines: character bigrams, and xz primed with the training text")
    return baselines.measure(texts_of(options, options.train_text, "train"), texts_of(options, options.sources))


def _text(result: dict[str, Any]) -> str:
    rows = {"model": result["bits_per_char"]}
    rows |= {name: entry["bits_per_char"] for name, entry in result["baselines"].items()}
    return "\n".join(
        [
            f"{result['documents']:,} documents, {result['characters']:,} characters, {result['tokens']:,} tokens, "
            f"windows of {result['window']:,}",
            f"{result['loss_nats_per_token']:.4f} nats/token, {result['bits_per_byte']:.4f} bits/byte",
            "bits per character (lower is better)",
            *(f"  {name:<18} {bits:7.4f}" for name, bits in sorted(rows.items(), key=lambda row: row[1])),
        ]
    )
