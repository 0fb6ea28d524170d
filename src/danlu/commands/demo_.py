"""`danlu demo`: the whole path in minutes, from raw text to a model, its quality, samples and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import log, storage
from danlu.commands import finish
from danlu.commands.demo_chat import require_conversations, taught_text, teach
from danlu.config import TrainConfig
from danlu.configure import check, merge, parse_flags, read_tables
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.data.shards import Shards
    from danlu.tokenizer import Tokenizer

PROMPTS = ("珠穆朗玛峰是", "中国经济", "新华社北京一月", "这本书")
_SHORTEST_TRAINING_SECONDS = 20.0
_VOCABULARY = 6400
_EVAL_TOKENS, _SAMPLE_TOKENS = 12_000, 40
_MINIMUM_CHARACTERS = 8


@dataclass(frozen=True)
class Options:
    """From the demo corpus to a trained model: tokenizer, shards, training, evaluation, samples, report."""

    minutes: float = 5.0
    """how long all of it may take"""
    out: Path = Path("demo")
    """folder that everything is written to"""
    chat: bool = False
    """afterwards teach it to answer, on the built-in conversations; that takes about as long again"""
    resume: bool = False
    """go on with an interrupted demo in --out, or with --chat after a finished one"""
    seed: int = 0
    """of initialisation, shuffling and samples"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, run every stage, print samples, the table and what to try next."""
    options = parse_flags(Options, argv, "danlu demo")
    result = demo(options)
    status = finish(result, _text(result) if result["finished"] else _stopped(options, result), options.json)
    return status if result["finished"] else 130


def demo(options: Options) -> dict[str, Any]:
    """Run the stages that are not done yet in `options.out`; return what `danlu demo --json` prints."""
    started = time.monotonic()
    if not 0.5 <= options.minutes <= 10_000:
        raise ConfigError(f"danlu demo: --minutes {options.minutes:g}: give between 0.5 and 10,000 minutes")
    if not options.resume:
        storage.require_absent(options.out)
    if options.chat:
        require_conversations()
    log.say(f"danlu demo: {options.minutes:g} minutes, into {options.out}/")
    shards, tokenizer = _data(options.out)
    baselines = _baselines(options.out, shards, tokenizer)
    done = _train(options, shards, tokenizer, started)
    result = {
        "data": str(options.out / "shards"),
        "tokenizer": str(options.out / "tokenizer"),
        **{key: done[key] for key in ("run", "checkpoint", "step", "tokens", "finished")},
        "report": str(options.out / "run" / "report.html"),
        "baselines": baselines,
    }
    judged = _judge(options, shards, tokenizer, Path(done["checkpoint"])) if done["finished"] else {}
    if options.chat and done["finished"]:
        judged["chat"] = teach(options.out, options.minutes, options.seed)
        result["finished"] = judged["chat"]["finished"]
    return {**result, **judged, "seconds": _since(started)}


def _data(out: Path) -> tuple[Shards, Tokenizer]:
    """Make tokenizer and shards of the demo corpus, or open those that are there."""
    from danlu.data.clean import Counts, clean, default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.data.prepare import prepare
    from danlu.data.shards import open_shards
    from danlu.data.sources import Corpus
    from danlu.tokenizer import Tokenizer, train_tokenizer

    if (out / "shards").is_dir() and (out / "tokenizer").is_dir():
        return open_shards(out / "shards"), Tokenizer.load(out / "tokenizer")
    counts = Counts()
    rules = [*default_rules(_MINIMUM_CHARACTERS), ExactDedup()]
    documents = list(clean(Corpus(["demo"]).track("corpus"), rules, counts))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in counts.dropped.items())
    log.say(f"corpus: {counts.documents:,} documents, {counts.kept:,} kept; dropped: {dropped}")
    if not (out / "tokenizer").is_dir():
        log.say(f"tokenizer: learning {_VOCABULARY:,} entries from {counts.characters:,} characters")
        train_tokenizer((d.text for d in documents), _VOCABULARY).save(out / "tokenizer")
    tokenizer = Tokenizer.load(out / "tokenizer")
    about = {"sources": ["demo"], "documents": counts.documents, "kept": counts.kept, "dropped": counts.dropped}
    prepare(log.track(documents, "shards", len(documents), "documents"), tokenizer, out / "shards", about=about)
    return open_shards(out / "shards"), tokenizer


def _baselines(out: Path, shards: Shards, tokenizer: Tokenizer) -> dict[str, Any]:
    """Measure what the model has to beat: a character bigram model, and xz primed with the training text."""
    from danlu.errors import DataError
    from danlu.evaluate.baselines import measure, texts_of

    path = out / "run" / "baselines.json"
    if path.is_file():
        return storage.read_json(path, DataError)
    log.say("baselines: character bigrams, and xz primed with the training text")
    found = measure(texts_of(shards, tokenizer, "train"), texts_of(shards, tokenizer, "validation"))
    (out / "run").mkdir(parents=True, exist_ok=True)
    storage.write_json(path, found)
    return found


def _train(options: Options, shards: Shards, tokenizer: Tokenizer, started: float) -> dict[str, Any]:
    from danlu.commands.train_ import train
    from danlu.train.run import RUN_TOML

    run = options.out / "run"
    if (run / RUN_TOML).is_file():
        return train(check(TrainConfig, read_tables(str(run)), str(run)), resume=True)
    seconds = options.minutes * 60 - _since(started) - _seconds_to_judge(shards, tokenizer)
    if seconds < _SHORTEST_TRAINING_SECONDS:
        log.say(
            f"preparation took {_since(started):.0f} s, so next to none of --minutes is left to train. Give it more"
        )
    tables = {
        "eval_tokens": _EVAL_TOKENS,
        "data": str(options.out / "shards"),
        "out": str(run),
        "seed": options.seed,
        "prompts": list(PROMPTS),
        "budget": f"{max(_SHORTEST_TRAINING_SECONDS, seconds):.0f} s",
        "sample_tokens": _SAMPLE_TOKENS,
    }
    return train(check(TrainConfig, merge(read_tables("nano"), tables), "danlu demo"), resume=True)


def _seconds_to_judge(shards: Shards, tokenizer: Tokenizer) -> float:
    """Time an untrained model on a little of the validation text, to reserve what all of it will take at the end."""
    from danlu.evaluate.loss import ValidationSet
    from danlu.model import build_model
    from danlu.train import devices

    config = check(TrainConfig, read_tables("nano"), "nano")
    model = build_model(config.model, shards.vocab_size, config.context)
    model.compute_dtype = devices.probe(config.device).dtype
    few = ValidationSet(shards, tokenizer, _EVAL_TOKENS)
    few.score(model, config.context)
    started = time.monotonic()
    scored = few.score(model, config.context).tokens
    return 4 + 1.2 * (time.monotonic() - started) * len(shards.split("validation")) / scored


def _judge(options: Options, shards: Shards, tokenizer: Tokenizer, checkpoint: Path) -> dict[str, Any]:
    from danlu.checkpoint import load_model
    from danlu.evaluate.loss import ValidationSet
    from danlu.evaluate.report import write_report
    from danlu.infer.generate import generate
    from danlu.train.plan import load_plan

    model = load_model(checkpoint)
    recorded = load_plan(options.out / "run")
    model.compute_dtype = recorded.machine.dtype if recorded else model.compute_dtype
    validation = ValidationSet(shards, tokenizer)
    with log.progress("tokens") as bar:
        task = bar.add_task("scoring all validation text", total=sum(map(len, validation.documents)), note="")
        score = validation.score(model, model.context, lambda tokens: bar.advance(task, tokens))
    samples = [
        {"prompt": p, "text": generate(model, tokenizer, p, max_new_tokens=60, seed=options.seed).texts[0]}
        for p in PROMPTS
    ]
    write_report(options.out / "run")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_char": score.bits_per_char,
        "loss_nats_per_token": score.loss_nats_per_token,
        "samples": samples,
    }


def _stopped(options: Options, result: dict[str, Any]) -> str:
    at = result.get("chat", result)
    again = f"danlu demo{' --chat' if options.chat else ''} --resume --out {options.out}"
    return f"stopped at step {at['step']:,}, saved in {at['checkpoint']}\ngo on with: {again}"


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _text(result: dict[str, Any]) -> str:
    lines = [f"{s['prompt']}|{s['text']}" for s in result["samples"]]
    rows = {"danlu": result["bits_per_char"]} | {n: b["bits_per_char"] for n, b in result["baselines"].items()}
    table = [f"  {name:<22} {bits:6.3f}" for name, bits in sorted(rows.items(), key=lambda row: row[1])]
    checkpoint = result["checkpoint"]
    return "\n".join(
        [
            "",
            *lines,
            "",
            f"bits per character on the validation text (lower is better; {result['parameters']:,} parameters,",
            f"{result['tokens']:,} tokens, {result['seconds']:.0f} s in all)",
            *table,
            "",
            f"report: {result['report']}",
            f"checkpoint: {checkpoint} (transformers opens it)",
            "",
            *(taught_text(result["chat"]) if "chat" in result else ()),
            "try next:",
            *([f"  danlu chat {result['chat']['run']}"] if "chat" in result else ()),
            f"  danlu generate {checkpoint} 今天天气",
            f"  danlu summary {checkpoint}",
            f'  danlu train nano --data {result["data"]} --out longer --budget "30 min"',
        ]
    )
