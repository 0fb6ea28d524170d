"""`danlu eval --chat`: answers to held-out questions, of one model or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import log
from danlu.commands import chat_template, finish
from danlu.config import DeviceConfig
from danlu.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from danlu.commands.eval_ import Options
    from danlu.data.chat import Conversation
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate
    from danlu.evaluate.chat import Answer, ChatScore
    from danlu.model import Model
    from danlu.tokenizer import Tokenizer
    from danlu.train.devices import Machine


@dataclass(frozen=True)
class ChatOptions:
    """What `--chat` adds to `danlu eval`."""

    chat: tuple[str, ...] = ()
    """instead of texts: conversations, whose questions are asked; files, folders or globs of .jsonl or .parquet"""
    against: tuple[Path, ...] = ()
    """with --chat: checkpoints that answer the same questions, shown before CKPT"""
    questions: int = 100
    """with --chat: most conversations to judge by, taken evenly"""
    max_new_tokens: int = 128
    """with --chat: longest answer"""
    temperature: float = 0.8
    """with --chat: of the answers, drawn as `danlu generate` draws; 0: always the likeliest token"""
    show: int = 0
    """with --chat: how many questions to print, with the reference and every model's answer"""


@dataclass(frozen=True)
class _Speaker:
    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate


def judge_chat(path: Path, options: Options) -> int:
    """Load every model, ask all the same questions, print."""
    from danlu.evaluate.chat import fits, side_by_side
    from danlu.train import devices

    if options.questions < 1 or options.max_new_tokens < 1 or options.show < 0:
        raise ConfigError(
            f"--questions {options.questions}, --max-new-tokens {options.max_new_tokens}, --show {options.show}: "
            "give 1 or more, 1 or more, 0 or more"
        )
    corpus = _corpus(options)
    taken, total = _evenly(corpus, options.questions)
    machine = devices.probe(DeviceConfig.model_validate({"precision": options.precision}))
    devices.prepare(machine, deterministic=False)
    speakers = {p: _speaker(p, machine) for p in dict.fromkeys([*options.against, path])}
    asked = [c for c in taken if all(fits(c, s.template, s.model.context) for s in speakers.values())]
    if not asked:
        shortest = min(s.model.context for s in speakers.values())
        raise DataError(f"{', '.join(options.chat)}: no conversation fits into the context of {shortest:,} tokens")
    scores, answers = _judged(speakers, asked, len(taken) - len(asked), options)
    result = {
        "checkpoint": str(path),
        **scores[path].as_dict(),
        "conversations": total,
        "skipped": corpus.skipped,
        "device": machine.device,
        "precision": machine.precision,
        "temperature": options.temperature,
        "against": {str(p): score.as_dict() for p, score in scores.items() if p != path},
        "shown": side_by_side(answers, options.show),
    }
    return finish(result, _text(result, scores, options.max_new_tokens), options.json)


def _corpus(options: Options) -> Corpus:
    from danlu.data.sources import Corpus

    return Corpus(options.chat, text_key=None, skip_bad=options.skip_bad)


def _evenly(corpus: Corpus, most: int) -> tuple[list[Conversation], int]:
    """Return at most so many conversations, evenly from all, and how many there are."""
    import numpy as np

    from danlu.data.chat import Conversation, Conversations

    records = Conversations(corpus)
    total = sum(1 for _ in records.only(Conversation))
    if not total:
        raise DataError(f"{', '.join(corpus.specs)}: holds no conversation")
    wanted = set(np.linspace(0, total, min(most, total), endpoint=False).astype(int).tolist())
    return [c for number, c in enumerate(records.only(Conversation)) if number in wanted], total


def _speaker(path: Path, machine: Machine) -> _Speaker:
    from danlu.checkpoint import load_model, load_tokenizer

    tokenizer = load_tokenizer(path)
    template = chat_template(path, tokenizer)
    model = load_model(path, device=machine.device)
    model.compute_dtype = machine.dtype
    return _Speaker(model, tokenizer, template)


def _judged(
    speakers: dict[Path, _Speaker], asked: Sequence[Conversation], left_out: int, options: ChatOptions
) -> tuple[dict[Path, ChatScore], dict[Path, list[Answer]]]:
    from danlu.evaluate.chat import judge
    from danlu.infer.sampling import Sampling

    scores: dict[Path, ChatScore] = {}
    answers: dict[Path, list[Answer]] = {}
    with log.progress("answers") as bar:
        task = bar.add_task("asking", total=len(speakers) * len(asked), note="")
        for path, speaker in speakers.items():
            try:
                score, answers[path] = judge(
                    speaker.model,
                    speaker.tokenizer,
                    speaker.template,
                    asked,
                    max_new_tokens=options.max_new_tokens,
                    sampling=Sampling(options.temperature),
                    on_progress=lambda _: bar.advance(task),
                )
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            scores[path] = replace(score, left_out=left_out)
    return scores, answers


def _text(result: dict[str, Any], scores: dict[Path, ChatScore], max_new_tokens: int) -> str:
    from danlu.evaluate.chat import ANSWER_ROWS

    label = max(len(name) for name, _, _ in ANSWER_ROWS)
    columns = {f"{path!s:>8}": score for path, score in scores.items()}
    rows = [
        [f"  {name:<{label}}", *(f"{getattr(score, key):>{len(head)}{form}}" for head, score in columns.items())]
        for name, key, form in ANSWER_ROWS
    ]
    return "\n".join(
        [
            f"{result['questions']:,} questions of {result['conversations']:,} conversations, "
            f"{result['left_out']:,} longer than the context left out; {result['precision']} on {result['device']}",
            f"answers of at most {max_new_tokens:,} tokens, temperature {result['temperature']:g}",
            f"unreadable and passed over: {result['skipped']:,}",
            "",
            *("  ".join(row) for row in ([" " * (label + 2), *columns], *rows)),
            *(_laid_out(number, row) for number, row in enumerate(result["shown"], 1)),
        ]
    )


def _laid_out(number: int, row: dict[str, Any]) -> str:
    """Lay out a question; an answer that did not end by itself ends with an ellipsis."""
    cut = {name for name, stopped in row["stopped"].items() if stopped != "eos"}
    said = {"reference": row["reference"]} | {n: a + "…" * (n in cut) for n, a in row["answers"].items()}
    width = max(map(len, said))
    lines = [f"  {name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 4)) for name, text in said.items()]
    return "\n".join([f"\n{number}. {row['question']}", *lines])
