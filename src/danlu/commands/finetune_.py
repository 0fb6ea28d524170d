"""`danlu finetune`: conversations packed into the run folder, then the one trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from danlu import storage
from danlu.commands import finish, required
from danlu.config import TrainConfig
from danlu.configure import check, parse_flags, read_tables
from danlu.errors import ConfigError, DataError, OutputError, TokenizerError

if TYPE_CHECKING:
    from danlu.commands.train_ import Material
    from danlu.data.chat import Conversation
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate
    from danlu.model import Model
    from danlu.tokenizer import Tokenizer

TURNS = "turns"
_OPTIM: dict[str, Any] = {"name": "muon", "muon_steps": 3, "momentum": 0.9}
_SCHEDULE = {"warmup_steps": 10, "decay": 1.0}


@dataclass(frozen=True)
class Options:
    """Teach a model to answer: its tokenizer's chat template, the assistant's words scored, rows packed."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder to start from; with --resume, the run folder to go on with"""
    data: tuple[str, ...] = ()
    """conversations: files, folders or globs of .jsonl or .parquet, or `demo-chat`"""
    objective: Literal["sft"] = "sft"
    """sft: the assistant's words and the end of its turns"""
    out: Path = Path("tuned")
    """run folder to make"""
    budget: str = "2 epochs"
    """how long: "300 steps", "2 epochs", "10 min" """
    replay: Path | None = None
    """shard folder of pretraining text to go on reading, so that less of it is forgotten"""
    replay_share: float = 0.2
    """its share of all rows"""
    batch_tokens: int = 4096
    """tokens a step"""
    lr: float = 5e-4
    """peak learning rate of AdamW"""
    muon_lr: float = 1e-3
    """peak learning rate of Muon"""
    seed: int = 0
    """of the order of rows"""
    validation_share: float = 0.05
    """share of the conversations held out"""
    too_long: Literal["drop", "split"] = "drop"
    """what becomes of a conversation longer than the context: dropped, or cut before a question; both are counted"""
    prompts: tuple[str, ...] = ("你好，你是谁？",)
    """questions answered by every sample"""
    skip_bad: bool = False
    """pass over records that cannot be read, and count them, instead of stopping at the first"""
    resume: bool = False
    """go on from the newest good checkpoint of the run folder, bit for bit"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, pack, train, print."""
    from danlu.commands.train_ import finished_text, train

    options = parse_flags(Options, argv, "danlu finetune")
    start = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    recorded = read_tables(str(start)) if options.resume and (start / "run.toml").is_file() else {}
    if recorded.get("objective", "pretrain") != "pretrain":  # else it is the model to start from
        done = train(check(TrainConfig, {**recorded, "out": str(start)}, str(start)), resume=True)
    else:
        is_new = not options.out.exists()
        try:
            done = train(_pack(options, start), resume=True)
        except (ConfigError, DataError, OutputError, TokenizerError):
            if is_new and not any(options.out.glob("checkpoints/step-*")):  # what cannot be run leaves nothing behind
                shutil.rmtree(options.out, ignore_errors=True)
            raise
    status = finish(done, finished_text(done), options.json)
    return status if done["finished"] else 130


def _pack(options: Options, start: Path) -> TrainConfig:
    """Pack the conversations into the run folder, unless they are there, and return the run's settings."""
    from danlu.checkpoint import load_model, load_tokenizer, resolve
    from danlu.data.prepare_turns import prepare_turns
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate

    if not options.data:
        raise ConfigError("danlu finetune: no conversations are named. Give --data FILE…")
    start, turns = resolve(start), options.out / TURNS
    model, template = load_model(start), ChatTemplate(load_tokenizer(start))
    template.end_of_turn()
    tables = {
        "objective": options.objective,
        "data": str(turns),
        "out": str(options.out),
        "init": str(start),
        "budget": options.budget,
        "seed": options.seed,
        "context": model.context,
        "batch_tokens": -(-options.batch_tokens // model.context) * model.context,
        "replay_share": options.replay_share,
        "prompts": list(options.prompts),
        "model": model.config.model_dump(mode="json"),
        "optim": _OPTIM | {"lr": options.lr, "muon_lr": options.muon_lr},
        "schedule": _SCHEDULE,
    }
    if options.replay is not None:
        tables["replay"] = str(options.replay)
    config = check(TrainConfig, tables, "danlu finetune")
    if options.resume and turns.is_dir():
        return config
    storage.require_absent(options.out)
    corpus = Corpus(options.data, text_key=None, skip_bad=options.skip_bad)
    about: dict[str, Any] = {"sources": list(options.data)}
    prepare_turns(
        _answered(corpus, about),
        template,
        model.context,
        turns,
        options.validation_share,
        options.too_long,
        about,
        corpus.bad,
    )
    return config


def _answered(corpus: Corpus, about: dict[str, Any]) -> Iterator[Conversation]:
    """Yield the conversations, a preference being a bad record; at the end, note how many were passed over."""
    from danlu.data.chat import Conversation, Conversations

    for record in Conversations(corpus):
        if isinstance(record, Conversation):
            yield record
        else:
            corpus.bad(f"{record.source}, record {record.id}: is a preference, not a conversation")
    about["skipped"] = corpus.skipped


def material_of_conversations(config: TrainConfig) -> Material:
    """Open packed conversations, and the text to replay. Raises DataError where a folder is missing or another's."""
    from danlu.commands.train_ import Material
    from danlu.data.shards import open_shards
    from danlu.data.template import ChatTemplate
    from danlu.data.turns import WithReplay, open_turns
    from danlu.evaluate.answers import AnswerSet
    from danlu.evaluate.loss import ValidationSet
    from danlu.tokenizer import Tokenizer

    if config.data is None or config.init is None:
        raise ConfigError("objective sft: needs `data`, packed conversations, and `init`: use danlu finetune")
    turns = open_turns(config.data)
    tokenizer = Tokenizer.load(turns.tokenizer_folder)
    template = ChatTemplate(tokenizer)
    kept = tokenizer.ending_with(template.end_of_turn())
    answers = AnswerSet(turns, tokenizer, config.context, config.eval_tokens)
    blocks, replayed = turns, None
    if config.replay is not None:
        text = open_shards(config.replay)
        if text.fingerprint != turns.fingerprint:
            raise TokenizerError(f"{config.replay}: was made with another tokenizer than {config.init} has")
        blocks, replayed = WithReplay(turns, text, config.replay_share), ValidationSet(text, kept, config.eval_tokens)

    def evaluate(model: Model) -> dict[str, float]:
        found = answers.score(model).as_dict()
        if replayed is not None:
            found["text_bits_per_char"] = replayed.score(model, config.context).bits_per_char
        return found

    return Material(blocks, kept, turns.manifest, evaluate, _answerer(config, kept, template))


def _answerer(config: TrainConfig, tokenizer: Tokenizer, template: ChatTemplate) -> Any:
    from danlu.data.chat import Message
    from danlu.infer.engine import generate

    def sample(model: Model) -> list[tuple[str, str]]:
        asked = [(prompt, template.prompt([Message("user", prompt)])) for prompt in config.prompts]
        count = config.sample_tokens
        return [
            (prompt, generate(model, tokenizer, ids, max_new_tokens=count, seed=config.seed).texts[0])
            for prompt, ids in (asked if count else [])
        ]

    return sample
