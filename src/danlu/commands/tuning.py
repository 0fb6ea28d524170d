"""What a fine-tuning run learns from and how it is judged: the material that `danlu train` hands to the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.config import TrainConfig
from danlu.errors import ConfigError, TokenizerError

if TYPE_CHECKING:
    from danlu.commands.train_ import Material
    from danlu.data.template import ChatTemplate
    from danlu.data.turns import Turns
    from danlu.model import Model
    from danlu.tokenizer import Tokenizer
    from danlu.train.objectives import Distillation, Preference
    from danlu.train.trainer import Evaluate

TURNS = "turns"
Start = Callable[["Model"], object]


def turns_folder(config: TrainConfig) -> Path:
    """Return a run's packed conversations: its own, wherever the run has been moved to, or those that are named."""
    own = config.out / TURNS
    return config.data if config.data is not None and not own.is_dir() else own


def material_of_conversations(config: TrainConfig) -> Material:
    """Open packed conversations, and the text to replay. Raises DataError where a folder is missing or another's."""
    from danlu.commands.train_ import Material
    from danlu.data.shards import open_shards
    from danlu.data.template import ChatTemplate
    from danlu.data.turns import WithReplay, open_turns
    from danlu.evaluate.loss import ValidationSet
    from danlu.tokenizer import Tokenizer
    from danlu.train.objectives import NextToken, Preference

    if config.data is None or config.init is None:
        raise ConfigError(f"objective {config.objective}: needs packed conversations and `init`: use danlu finetune")
    turns = open_turns(turns_folder(config))
    tokenizer = Tokenizer.load(turns.tokenizer_folder)
    template = ChatTemplate(tokenizer)
    kept = tokenizer.ending_with(template.end_of_turn())
    start: Start | None = None
    if config.objective == "dpo":
        objective = Preference(config.dpo)
        evaluate, start = _pairs(config, turns, tokenizer, objective)
    else:
        objective = _distillation(config, tokenizer) if config.objective == "distill" else NextToken()
        evaluate = _answers(config, turns, tokenizer)
    if config.replay is None:
        return Material(turns, kept, turns.manifest, evaluate, _answerer(config, kept, template), start, objective)
    text = open_shards(config.replay)
    if text.fingerprint != turns.fingerprint:
        raise TokenizerError(f"{config.replay}: was made with another tokenizer than {config.init} has")
    replayed = ValidationSet(text, kept, config.eval_tokens)

    def evaluate_both(model: Model) -> dict[str, float]:
        return {**evaluate(model), "text_bits_per_char": replayed.score(model, config.context).bits_per_char}

    blocks = WithReplay(turns, text, config.replay_share)
    return Material(blocks, kept, turns.manifest, evaluate_both, _answerer(config, kept, template), start, objective)


def _answers(config: TrainConfig, turns: Turns, tokenizer: Tokenizer) -> Evaluate:
    from danlu.evaluate.answers import AnswerSet, held_out

    answers = AnswerSet(held_out(turns, config.context, config.eval_tokens), tokenizer)
    return lambda model: answers.score(model).as_dict()


def _pairs(config: TrainConfig, turns: Turns, tokenizer: Tokenizer, objective: Preference) -> tuple[Evaluate, Start]:
    """Judge pairs beside the reference, which is stored before the first step."""
    from danlu.checkpoint import load_model
    from danlu.evaluate.answers import PairSet, held_out, record_reference

    assert config.init is not None
    reference, made = load_model(config.init), list[PairSet]()

    def evaluate(model: Model) -> dict[str, float]:
        if not made:  # the reference's losses are stored only when the run begins
            made.append(PairSet(held_out(turns, config.context, config.eval_tokens), tokenizer, objective, reference))
        return made[0].score(model)

    return evaluate, lambda model: record_reference(turns, model, config.context)


def _distillation(config: TrainConfig, tokenizer: Tokenizer) -> Distillation:
    """Load the teacher. Raises TokenizerError where it reads text in other tokens."""
    from danlu.checkpoint import load_tokenizer
    from danlu.evaluate.foreign import load_any
    from danlu.train.objectives import Distillation

    assert config.distill.teacher is not None
    if load_tokenizer(config.distill.teacher).vocabulary != tokenizer.vocabulary:
        raise TokenizerError(
            f"{config.distill.teacher}: the teacher has another tokenizer than {config.init}, so their distributions "
            "are over other tokens. Name a teacher with the same one"
        )
    teacher = load_any(config.distill.teacher)
    if teacher.context < config.context:
        raise ConfigError(
            f"{config.distill.teacher}: the teacher's context of {teacher.context:,} tokens is shorter than the "
            f"model's, {config.context:,}"
        )
    return Distillation(teacher.model.eval().requires_grad_(False), config.distill)


def _answerer(config: TrainConfig, tokenizer: Tokenizer, template: ChatTemplate) -> Any:
    from danlu.data.chat import Message
    from danlu.infer.generate import generate

    def sample(model: Model) -> list[tuple[str, str]]:
        asked = [(prompt, template.prompt([Message("user", prompt)])) for prompt in config.prompts]
        count = config.sample_tokens
        return [
            (prompt, generate(model, tokenizer, ids, max_new_tokens=count, seed=config.seed).texts[0])
            for prompt, ids in (asked if count else [])
        ]

    return sample
