"""Answers to held-out questions: what the reference costs the model, and how near its own answer comes.

The loss is of all the assistant's words and the marks that end its turns. The answer is to the last question, all
turns before it as they were; white space at both ends of an answer does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import tee
from typing import Any

import numpy as np

from danlu.data.chat import Conversation
from danlu.data.template import ChatTemplate, Encoded
from danlu.errors import DataError
from danlu.evaluate.loss import Score, Window, padded, score_batches
from danlu.infer.generate import generate_many
from danlu.infer.request import Request
from danlu.infer.sampling import Sampling
from danlu.model import Model
from danlu.tokenizer import Tokenizer
from danlu.types import IGNORED

GREEDY = Sampling(temperature=0.0)
ANSWERS = "answers.json"
"""In a fine-tuning run's folder: `scores` of every model, and some answers `shown` side by side."""
ANSWER_ROWS = (
    ("nats/token of the references", "loss_nats_per_token", ".4f"),
    ("bits per character of these", "bits_per_char", ".4f"),
    ("answers equal to the reference", "exact_match", ".1%"),
    ("character F1", "character_f1", ".1%"),
    ("ended by themselves", "stopped", ".1%"),
    ("different pairs of characters", "distinct_2", ".1%"),
    ("characters an answer", "answer_characters", ".1f"),
)
"""What a person is told each figure is, its key, and how it is written."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer beside the reference; `stopped` says why it ended: eos, length or context."""

    question: str
    reference: str
    answer: str
    stopped: str


@dataclass(frozen=True, slots=True)
class ChatScore:
    """What a model's answers are worth; the shares are of the questions asked, `left_out` conversations were too long.

    `distinct_2` is the share of different ones among all pairs of neighbouring characters: 1 is no repetition.
    """

    questions: int
    left_out: int
    loss_nats_per_token: float
    bits_per_char: float
    exact_match: float
    character_f1: float
    stopped: float
    distinct_2: float
    answer_characters: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def judge(
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int = 0,
    on_progress: Callable[[Answer], object] | None = None,
) -> tuple[ChatScore, list[Answer]]:
    """Score the references, answer every question (greedily, unless `sampling` says otherwise), and compare.

    Conversations longer than the model's context are left out. Raises DataError where none is left.
    """
    fitting = [c for c in conversations if fits(c, template, model.context)]
    if not fitting:
        raise DataError(
            f"of {len(conversations):,} conversations none fits into the context of {model.context:,} tokens. "
            "Give shorter ones"
        )
    score = score_answers(model, tokenizer, template, fitting)
    answers: list[Answer] = []
    for answer in answered(
        model, tokenizer, template, fitting, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed
    ):
        answers.append(answer)
        if on_progress is not None:
            on_progress(answer)
    return compared(answers, score, len(conversations) - len(fitting)), answers


def fits(conversation: Conversation, template: ChatTemplate, context: int) -> bool:
    """Tell whether every token of a conversation has its place in the context; the last one is read by none."""
    return len(_encoded(conversation, template).ids) <= context + 1


def score_answers(
    model: Model, tokenizer: Tokenizer, template: ChatTemplate, conversations: Iterable[Conversation]
) -> Score:
    """Return the loss of the assistant's words, each conversation alone; marks count as tokens, not as characters."""
    special = set(tokenizer.special_ids.values())
    windows: list[Window] = []
    characters = size = 0
    for conversation in conversations:
        encoded = _encoded(conversation, template)
        ids, scored = np.array(encoded.ids), np.array(encoded.scored)
        windows.append((ids[:-1], np.where(scored[1:], ids[1:], IGNORED)))
        text = tokenizer.decode(i for i in ids[scored].tolist() if i not in special)
        characters, size = characters + len(text), size + len(text.encode())
    nats, tokens = score_batches(model, padded(windows, tokenizer.document_id))
    return Score(nats, tokens, characters, size, model.context, len(windows))


def answered(
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    conversations: Iterable[Conversation],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[Answer]:
    """Yield the answer to each conversation's last question; conversation i draws from the random stream of seed + i.

    It ends at the mark that ends a turn in the template, whatever the tokenizer's own eos is: a model from before and
    one from after fine-tuning are judged alike.
    """
    ending = tokenizer.ending_with(template.end_of_turn())
    asked, again = tee(conversations)
    requests = (
        Request(tuple(template.prompt(c.messages[:-1])), max_new_tokens, sampling or GREEDY, seed + number)
        for number, c in enumerate(asked)
    )
    for conversation, (text, stopped) in zip(again, generate_many(model, ending, requests), strict=True):
        *before, reference = conversation.messages
        yield Answer(before[-1].content, reference.content, text, stopped)


def compared(answers: Sequence[Answer], score: Score, left_out: int = 0) -> ChatScore:
    """Put the figures together; `answers` must not be empty."""
    count = len(answers)
    return ChatScore(
        questions=count,
        left_out=left_out,
        loss_nats_per_token=score.loss_nats_per_token,
        bits_per_char=score.bits_per_char,
        exact_match=sum(a.answer.strip() == a.reference.strip() for a in answers) / count,
        character_f1=sum(character_f1(a.answer, a.reference) for a in answers) / count,
        stopped=sum(a.stopped == "eos" for a in answers) / count,
        distinct_2=distinct_2([a.answer for a in answers]),
        answer_characters=sum(len(a.answer.strip()) for a in answers) / count,
    )


def side_by_side(answers: Mapping[Any, Sequence[Answer]], most: int) -> list[dict[str, Any]]:
    """Put the answers of several models to each of the first questions into one row."""
    return [
        {
            "question": row[0].question,
            "reference": row[0].reference,
            "answers": {str(name): a.answer for name, a in zip(answers, row, strict=True)},
            "stopped": {str(name): a.stopped for name, a in zip(answers, row, strict=True)},
        }
        for row in list(zip(*answers.values(), strict=True))[:most]
    ]


def character_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over characters, each counted as often as it occurs.

    White space does not count. Source: Rajpurkar et al. 2016, arXiv:1606.05250, with characters for words.
    """
    said, wanted = (Counter("".join(text.split())) for text in (answer, reference))
    if not said and not wanted:
        return 1.0
    return 2 * (said & wanted).total() / (said.total() + wanted.total())


def distinct_2(texts: Iterable[str]) -> float:
    """Return how many different pairs of neighbouring characters there are, as a share of all pairs; 0 without any.

    After Li et al. 2016, arXiv:1510.03055, who count words, and divide by all words.
    """
    pairs = [pair for text in texts for pair in zip(text.strip(), text.strip()[1:], strict=False)]
    return len(set(pairs)) / max(1, len(pairs))


def _encoded(conversation: Conversation, template: ChatTemplate) -> Encoded:
    try:
        return template.encode(conversation.messages)
    except DataError as error:
        raise DataError(f"{conversation.source}, record {conversation.id}: {error}") from None
