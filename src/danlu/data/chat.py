"""Conversations and preferences: the shapes people keep them in, one record at a time.

A record's shape is seen from its keys; nothing has to be named. `Conversations` reads every source that `Corpus` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.sources import Corpus
from danlu.errors import DataError

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}
_QUESTIONS = ("question", "query", "prompt", "instruction", "q")
_ANSWERS = ("answer", "response", "completion", "output", "a")
_SHOWN = 160
KNOWN = "messages, conversations, instruction/output, question/answer, prompt/chosen/rejected"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system message if there is one, then user and assistant in turn; the last turn is the assistant's."""

    messages: Messages
    source: str
    id: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways to go on after `prompt`: each is a conversation's remaining turns, and they differ."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    source: str
    id: str


def first_question(messages: Messages) -> str:
    """Return what the user says first."""
    return next(m.content for m in messages if m.role == "user")


def words(messages: Messages) -> str:
    """Return all that is said, as one text to tell copies by."""
    return "\0".join(m.content for m in messages)


@dataclass
class Conversations:
    """Iterates over a corpus's conversations (and preferences), in its order.

    Raises DataError for a record of no known shape, roles in an impossible order, an empty answer, or sides of a
    preference that are the same; with the corpus's `skip_bad` these are counted and passed over.
    """

    corpus: Corpus

    def __post_init__(self) -> None:
        if self.corpus.text_key is not None:
            raise ValueError("the corpus must keep whole records: text_key=None")

    def __iter__(self) -> Iterator[Conversation | Preference]:
        for document in self.corpus:
            try:
                record = parse(document.meta, document.source, document.id)
            except DataError as error:
                self.corpus.bad(f"{document.source}, record {document.id}: {error}")
            else:
                yield record


def parse(record: Mapping[str, Any], source: str = "", id: str = "") -> Conversation | Preference:
    """Make a conversation or a preference of a record. Raises DataError, which shows the record if no shape fits."""
    if "chosen" in record and "rejected" in record:
        return _preference(record, source, id)
    for key in ("messages", "conversations", "conversation"):
        if isinstance(record.get(key), list):
            turns = [*_system(record), *_turns(record[key])]
            return Conversation(_require_answer(_in_order(turns)), source, id)
    question = _question(record)
    answer = next((record[key] for key in _ANSWERS if isinstance(record.get(key), str)), None)
    if question is None or answer is None:
        shown = json.dumps(dict(record), ensure_ascii=False, default=str)
        raise DataError(f"is of no known shape ({KNOWN}): {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}")
    turns = [*_system(record), *_history(record), Message("user", question), Message("assistant", answer)]
    return Conversation(_require_answer(_in_order(turns)), source, id)


def _question(record: Mapping[str, Any]) -> str | None:
    """Return the question; Alpaca's `input` follows its instruction."""
    question = next((record[key] for key in _QUESTIONS if isinstance(record.get(key), str)), None)
    more = record.get("input")
    if question is not None and isinstance(more, str) and more.strip():
        return f"{question}\n{more}"
    return question


def _system(record: Mapping[str, Any]) -> list[Message]:
    system = record.get("system")
    return [Message("system", system)] if isinstance(system, str) and system.strip() else []


def _history(record: Mapping[str, Any]) -> list[Message]:
    """Return earlier turns, which some Alpaca sets keep as pairs of question and answer."""
    pairs = record.get("history") or []
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair) for pair in pairs):
        raise DataError("its history is no list of [question, answer]")
    roles = ("user", "assistant")
    return [Message(role, text) for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _turns(turns: Sequence[Any]) -> list[Message]:
    made: list[Message] = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise DataError(f"its turn {number} is no object")
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise DataError(f"its turn {number} has the role {role!r}. Known: {', '.join(_ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"its turn {number} has no text (role {role!r})")
        made.append(Message(_ROLES[role.lower()], content))
    return made


def _in_order(turns: Sequence[Message]) -> Messages:
    """Require a system message first or none, then user and assistant in turn."""
    said = turns[1:] if turns and turns[0].role == "system" else turns
    for number, (turn, expected) in enumerate(zip(said, ("user", "assistant") * len(said), strict=False), 1):
        if turn.role != expected:
            raise DataError(f"its turns are out of order: turn {number} is the {turn.role}'s, not the {expected}'s")
        if not turn.content.strip():
            raise DataError(f"its turn {number}, the {turn.role}'s, is empty")
    return tuple(turns)


def _require_answer(messages: Messages) -> Messages:
    if not messages or messages[-1].role != "assistant":
        raise DataError("it does not end with an answer of the assistant")
    return messages


def _preference(record: Mapping[str, Any], source: str, id: str) -> Preference:
    question = _question(record)
    sides = [_side(record[key], question, record) for key in ("chosen", "rejected")]
    shared = 0
    while shared < min(map(len, sides)) and sides[0][shared] == sides[1][shared]:
        shared += 1
    if sides[0] == sides[1]:
        raise DataError("its chosen and rejected are the same")
    prompt = sides[0][:shared]
    if not prompt or prompt[-1].role != "user":
        raise DataError("its chosen and rejected do not answer the same question")
    return Preference(prompt, sides[0][shared:], sides[1][shared:], source, id)


def _side(value: Any, question: str | None, record: Mapping[str, Any]) -> Messages:
    """Return a whole conversation: a list of turns may leave the question to the record, a string always does."""
    if isinstance(value, list):
        turns = _turns(value)
    elif isinstance(value, str):
        turns = [Message("assistant", value)]
    else:
        raise DataError("its chosen and rejected are neither messages nor texts")
    if turns and turns[0].role == "assistant":
        if question is None:
            raise DataError("its chosen and rejected are answers, and it has no prompt")
        turns = [*_system(record), *_history(record), Message("user", question), *turns]
    return _require_answer(_in_order(turns))
