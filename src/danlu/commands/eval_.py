"""`danlu eval`: bits per character of any checkpoint on any text; with `--chat`, answers to questions."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from danlu import log, storage
from danlu.commands import SourceOptions, finish, required
from danlu.commands.eval_chat import ChatOptions, judge_chat
from danlu.config import DeviceConfig
from danlu.configure import parse_flags
from danlu.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from danlu.evaluate.foreign import Candidate
    from danlu.evaluate.loss import Score

_NO_BASELINES: dict[str, Any] = {"baselines": {}, "train_text_skipped": 0}


@dataclass(frozen=True)
class Options(ChatOptions, SourceOptions):
    """Score every document alone: eos, then its raw text, in windows that do not overlap. With --chat, ask instead."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder of danlu or transformers, or a run folder (its best)"""
    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, `demo`, `demo-chat`, sets on a hub, or a shard folder (its validation split)"""
    window: int | None = None
    """tokens of a window; by default the model's context (of a foreign model at most 4096)"""
    baselines: bool = True
    """also measure character bigrams and primed xz, if the training text is known"""
    train_text: tuple[str, ...] = ()
    """training text of the baselines, sources or a shard folder; by default the shards of CKPT's run"""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """compute type; auto: as in training, a short timed matrix product decides"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, score, print."""
    options = parse_flags(Options, argv, "danlu eval")
    path = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    _require_one_purpose(options)
    if options.chat:
        return judge_chat(path, options)
    if not options.sources:
        what = "files, folders, globs, `demo`, `demo-chat`, sets on a hub or a shard folder, or --chat FILE…"
        raise DataError(f"danlu eval: no text is named. Give {what}")
    from danlu.evaluate.foreign import load_any
    from danlu.evaluate.loss import checked_window, together

    candidate = load_any(path)
    window = checked_window(options.window, candidate.context, candidate.default_window)
    scored = Texts(options, options.sources, "validation")
    characters = sum(map(len, scored.read("reading")))
    if not characters:
        raise DataError(f"{', '.join(options.sources)}: holds no text to score")
    scores, computed = _score(candidate, scored, window, characters, options.precision)
    score = together(list(scores.values()))
    if not math.isfinite(score.nats):
        raise CheckpointError(f"{path}: its loss on this text is {score.nats}: the weights are not usable")
    result = {
        "checkpoint": str(path),
        "loss_nats_per_token": score.loss_nats_per_token,
        "bits_per_char": score.bits_per_char,
        "bits_per_byte": score.bits_per_byte,
        "documents": score.documents,
        "skipped": scored.skipped,
        "characters": score.characters,
        "bytes": score.bytes,
        "tokens": score.tokens,
        "window": score.window,
        "by_source": {name: each.as_dict() for name, each in scores.items() if name and each.documents},
        **computed,
        **(_baselines(options, path, scored) if options.baselines else _NO_BASELINES),
    }
    return finish(result, _text(result), options.json)


def _require_one_purpose(options: Options) -> None:
    """Raise ConfigError for a setting of texts beside --chat, and for one of --chat without it."""
    unused = {"sources", "window", "baselines", "train_text"} if options.chat else {f.name for f in fields(ChatOptions)}
    given = [f.name for f in fields(options) if f.name in unused and getattr(options, f.name) != f.default]
    if given:
        name = "text to score" if given[0] == "sources" else f"--{given[0].replace('_', '-')}"
        raise ConfigError(f"danlu eval: {name} and {'' if options.chat else 'no '}--chat do not go together")


def _score(
    candidate: Candidate, scored: Texts, window: int, characters: int, precision: str
) -> tuple[dict[str, Score], dict[str, str]]:
    """Return the score of each source of a mix (without one, of all text, under ""), and how it was computed."""
    from danlu.evaluate.loss import score_texts
    from danlu.train import devices

    machine = devices.probe(DeviceConfig.model_validate({"precision": precision}))
    model = candidate.model.to(devices.prepare(machine, deterministic=False))
    model.compute_dtype = machine.dtype  # pyright: ignore[reportArgumentType]
    with log.progress("characters") as bar:
        task = bar.add_task("scoring", total=characters, note="")
        texts = scored.read()
        scores = {
            name: score_texts(
                model, candidate.tokenizer, islice(texts, count), window, lambda n: bar.advance(task, round(n))
            )
            for name, count in scored.parts().items()
        }
        bar.update(task, completed=characters)
    return scores, {"device": machine.device, "precision": machine.precision}


@dataclass
class Texts:
    """The raw texts of sources; of a shard folder, those of one split."""

    options: SourceOptions
    sources: Sequence[str]
    split: str
    skipped: int = 0
    """unreadable records that the last reading passed over"""

    def read(self, progress: str | None = None) -> Iterator[str]:
        """Yield the texts from the first on; `progress` names a bar."""
        self.skipped = 0
        for source in self.sources:
            if (Path(source) / storage.MANIFEST).is_file():
                yield from self._shards(Path(source), progress)
            else:
                corpus = self.options.corpus([source])
                yield from (d.text for d in (corpus.track(progress) if progress else corpus))
                self.skipped += corpus.skipped

    def parts(self) -> dict[str, int | None]:
        """Return the number of documents of each source of a mix, in order; without one, all under the name ""."""
        from danlu.data.shards import open_shards

        if len(self.sources) == 1 and (Path(self.sources[0]) / storage.MANIFEST).is_file():
            entries = open_shards(Path(self.sources[0])).manifest.get("mix", [])
            if entries:
                return {entry["name"]: entry[self.split]["documents"] for entry in entries}
        return {"": None}

    def _shards(self, folder: Path, progress: str | None) -> Iterator[str]:
        from danlu.data.shards import open_shards
        from danlu.evaluate import baselines
        from danlu.tokenizer import Tokenizer

        shards = open_shards(folder)
        texts = baselines.texts_of(shards, Tokenizer.load(shards.tokenizer_folder), self.split)
        total = shards.split(self.split).documents_count
        return log.track(texts, progress, total, "documents") if progress else texts


def _baselines(options: Options, path: Path, scored: Texts) -> dict[str, Any]:
    """Measure bigrams and xz on the same text, where a training text is named or found."""
    from danlu.evaluate import baselines

    training = options.train_text or _run_shards(path)
    if not training:
        log.say(f"no baselines: {path} lies in no run whose shards are here. Name the training text: --train-text")
        return _NO_BASELINES
    texts = Texts(options, training, "train")
    measured = baselines.measure(texts.read("bigrams"), scored.read())
    return {"baselines": measured, "train_text_skipped": texts.skipped}


def _run_shards(path: Path) -> tuple[str, ...]:
    """Return the shard folder of the run that a checkpoint lies in, if it is still there."""
    from danlu.checkpoint import resolve

    folder = resolve(path).resolve()
    for parent in (folder, *folder.parents[:3]):
        settings = parent / "run.toml"
        if settings.is_file():
            data = tomllib.loads(settings.read_text(encoding="utf-8")).get("data", "")
            return (data,) if (Path(data) / storage.MANIFEST).is_file() else ()
    return ()


def _text(result: dict[str, Any]) -> str:
    rows = {"model": result["bits_per_char"]}
    rows |= {name: entry["bits_per_char"] for name, entry in result["baselines"].items()}
    width = max(map(len, rows))
    of_training = f", and {result['train_text_skipped']:,} of the training text" if result["train_text_skipped"] else ""
    return "\n".join(
        [
            f"{result['documents']:,} documents, {result['characters']:,} characters, "
            f"{result['tokens']:,} tokens, windows of {result['window']:,}, "
            f"{result['precision']} on {result['device']}",
            f"unreadable and passed over: {result['skipped']:,}{of_training}",
            f"{result['loss_nats_per_token']:.4f} nats/token, {result['bits_per_byte']:.4f} bits/byte",
            "",
            "bits per character (lower is better)",
            *(f"  {name:<{width}} {bits:8.4f}" for name, bits in sorted(rows.items(), key=lambda row: row[1])),
            *(f"  model, on {name}: {score['bits_per_char']:.4f}" for name, score in result["by_source"].items()),
        ]
    )
