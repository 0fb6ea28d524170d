"""`danlu finetune`: conversations packed into the run folder, then the one trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import log, storage
from danlu.commands import finish
from danlu.commands.tuning import TURNS
from danlu.config import FinetuneConfig, RunConfig, TrainConfig
from danlu.configure import check, merge, read_config, read_tables
from danlu.errors import ConfigError, DanluError, OutputError

if TYPE_CHECKING:
    from danlu.data.chat import Conversation, Preference
    from danlu.data.sources import Corpus

USAGE = """usage: danlu finetune CKPT|RUN.toml|RUN_FOLDER --data FILE… [--resume] [--json] [--skip-bad] [--KEY VALUE …]

CKPT         checkpoint folder, or run folder (its best), to start from
RUN.toml     settings, `checkpoint` among them
RUN_FOLDER   with --resume: go on with what was recorded there
--data       conversations: .jsonl, .json, .parquet of messages, conversations, instruction/output, question/answer;
             preferences for --objective dpo; demo-chat, which comes with the extra [demo]; or a set on a hub,
             hf:OWNER/NAME, modelscope:OWNER/NAME (danlu fetch --help, danlu corpora)
--objective  sft (the assistant's words), dpo (preferred answers), distill (a teacher's distribution)
--adapter    lora: the weights stay, narrow matrices beside them learn
--resume     go on from the newest good checkpoint of the run folder, bit for bit; start if there is none
--skip-bad   pass over records that cannot be used, and count them, instead of stopping at the first
--json       print one JSON object as the last line

Every key of the settings is a flag (danlu finetune CKPT --help shows them all with their values):
  danlu finetune runs/nano --data chat.jsonl --replay shards --out tuned --budget "3 epochs"
  danlu finetune tuned --data pairs.jsonl --objective dpo --out preferred --dpo.beta 0.1"""

_OPTIM: dict[str, Any] = {"name": "muon", "muon_steps": 3, "momentum": 0.9}
_RATES = {
    "sft": {"lr": 1e-3, "muon_lr": 2e-3},
    "distill": {"lr": 1e-3, "muon_lr": 2e-3},
    "dpo": {"lr": 1e-4, "muon_lr": 2e-4},
}
_ADAPTER_RATES = {"sft": 2e-3, "distill": 2e-3, "dpo": 5e-4}
_SCHEDULE = {"warmup_steps": 10, "decay": 1.0}
_COPIED = {*RunConfig.model_fields, "objective", "budget", "prompts"}
"""Keys that a run has under the same names."""
_PARTS = {"train": "learn from", "validation": "judge by"}
_SWITCHES = ("--json", "--resume", "--skip-bad")


def run(argv: list[str]) -> int:
    """Parse, pack, train, print."""
    from danlu.commands.train_ import finished_text, train

    flags = [a for a in argv if a not in _SWITCHES]
    if not flags or flags[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    source, *rest = flags
    if source.startswith("-"):
        raise ConfigError(f"danlu finetune: name a checkpoint, a TOML file or a run folder before {source}")
    recorded = read_tables(source) if "--resume" in argv and (Path(source) / "run.toml").is_file() else {}
    if recorded.get("objective", "pretrain") != "pretrain":  # else it is the model to start from
        config = read_config(TrainConfig, {**recorded, "out": source}, rest, f"danlu finetune {source}")
        done = train(config, resume=True)
    else:
        done = finetune(settings(source, rest), resume="--resume" in argv, skip_bad="--skip-bad" in argv)
    text = finished_text(done, "finetune") + answers_text(done.get("answers", {}))
    status = finish(done, text, "--json" in argv)
    return status if done["finished"] else 130


def answers_text(scores: dict[str, Any]) -> str:
    """Return a line on the answers before and after, or nothing."""
    if len(scores) < 2:
        return ""
    *_, before, after = scores.items()
    figures = (("nats/token", "loss_nats_per_token", ".3f"), ("ended by themselves", "stopped", ".0%"))
    parts = [f"{what} {before[1][key]:{form}} → {after[1][key]:{form}}" for what, key, form in figures]
    return f"\n{after[1]['questions']:,} held-out questions, {before[0]} → {after[0]}: " + ", ".join(parts)


def settings(source: str, flags: Sequence[str] = ()) -> FinetuneConfig:
    """Read a TOML file, or name a checkpoint; lay flags over it, and both over the objective's own rates."""
    where = f"danlu finetune {source}"
    tables = read_tables(source) if source.endswith(".toml") else {"checkpoint": source}
    asked = read_config(FinetuneConfig, tables, [f for f in flags if f not in ("-h", "--help")], where)
    rates = _RATES[asked.objective]
    if asked.adapter != "none":
        rates = {**rates, "lr": _ADAPTER_RATES[asked.objective]}
    return read_config(FinetuneConfig, merge({"optim": _OPTIM | rates, "schedule": _SCHEDULE}, tables), flags, where)


def finetune(config: FinetuneConfig, resume: bool = False, skip_bad: bool = False) -> dict[str, Any]:
    """Fine-tune as `config` says and return what `danlu finetune --json` prints. Raises as `train` does."""
    from danlu.commands.train_ import train

    is_new = not config.out.exists()
    try:
        done = train(_pack(config, resume, skip_bad), resume=True)
    except DanluError:
        if is_new and not any(config.out.glob("checkpoints/step-*")):  # what cannot be run leaves nothing behind
            shutil.rmtree(config.out, ignore_errors=True)
        raise
    return done


def _pack(config: FinetuneConfig, resume: bool, skip_bad: bool) -> TrainConfig:
    """Pack the conversations into the run folder, unless they are there, and return the run's settings."""
    from danlu.checkpoint import load_model, load_tokenizer, resolve
    from danlu.data.prepare_turns import prepare_turns
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate

    if config.checkpoint is None:
        raise ConfigError("danlu finetune: no checkpoint is named. Write danlu finetune CKPT --data FILE… --out FOLDER")
    if (config.checkpoint / TURNS).is_dir() and not (config.checkpoint / "run.toml").is_file():
        raise ConfigError(
            f"{config.checkpoint}: was stopped before its run began. Repeat the command that made it, with --resume"
        )
    start, turns = resolve(config.checkpoint), config.out / TURNS
    if not config.data:
        raise ConfigError("danlu finetune: no conversations are named. Give --data FILE…")
    model, template = load_model(start), ChatTemplate(load_tokenizer(start))
    template.end_of_turn()
    row = model.context * (2 if config.objective == "dpo" else 1)  # the two sides of a pair share one
    tables = config.model_dump(mode="json", include=_COPIED) | {
        "data": str(turns),
        "out": str(config.out),
        "init": str(start.absolute()),
        "replay": None if config.replay is None else str(config.replay.absolute()),
        "context": row,
        "batch_tokens": -(-config.batch_tokens // row) * row,
        "model": model.config.model_dump(mode="json"),
    }
    training = check(TrainConfig, tables, "danlu finetune")
    if resume and turns.is_dir():
        return training
    if resume and config.out.is_dir():
        storage.sweep(config.out)  # what a process killed while packing left
    if turns.is_dir():
        raise OutputError(f"{config.out}: is a run already. Go on with it by --resume, or name another --out")
    storage.require_absent(config.out)
    corpus = Corpus(config.data, text_key=None, skip_bad=skip_bad)
    about: dict[str, Any] = {"sources": list(config.data), "revisions": corpus.revisions}
    records = _records(corpus, config.objective, about)
    made = prepare_turns(
        records, template, model.context, turns, config.validation_share, config.too_long, about, corpus.bad
    )
    log.say(packed_text(made))
    return training


def packed_text(manifest: dict[str, Any]) -> str:
    """Return what a person is told of packed conversations: how many, in how many rows, and what is left out."""
    entries = manifest["splits"]
    kept = " and ".join(f"{entries[name]['conversations']:,} to {what}" for name, what in _PARTS.items())
    left = [f"{reason} {count:,}" for reason, count in manifest["dropped"].items() if count]
    left += [f"cut before a question {manifest['cut']:,}"] if manifest["cut"] else []
    left += [f"unreadable {manifest['skipped']:,}"] if manifest["skipped"] else []
    rows = f"{entries['train']['rows']:,} rows of {manifest['context']:,} tokens"
    return f"conversations: {kept}, in {rows}" + (f"; dropped: {', '.join(left)}" if left else "")


def _records(corpus: Corpus, objective: str, about: dict[str, Any]) -> Iterator[Conversation | Preference]:
    """Yield what an objective learns from; at the end, note how many records were passed over."""
    from danlu.data.chat import Conversation, Conversations, Preference

    yield from Conversations(corpus).only(Preference if objective == "dpo" else Conversation)
    about["skipped"] = corpus.skipped
