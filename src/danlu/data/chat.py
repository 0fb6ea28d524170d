"""Conversations and preferences: the shapes people keep them in, one record at a time.

A record's shape is seen from its keys; nothing has to be named. `Conversations` reads every source that `Corpus` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

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
_LISTS = ("messages", "conversations", "conversation")
_QUESTIONS = ("question", "query", "prompt", "instruction", "q")
_ANSWERS = ("answer", "response", "completion", "output", "a")
_SHOWN = 160
KNOWN = "messages, conversations, instruction/output, question/answer, prompt/chosen/rejected"


Refusal = Literal["unreadable", "out_of_order", "no_answer", "empty_question", "empty_answer", "no_difference"]


class BadRecord(DataError):
    """A record that is no right conversation or preference, and why, as a word to count by."""

    def __init__(self, message: str, reason: Refusal = "unreadable"):
        super().__init__(message)
        self.reason: Refusal = reason


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

    @property
    def sides(self) -> tuple[Messages, ...]:
        """Return its messages: it has one side."""
        return (self.messages,)

    @property
    def said(self) -> Messages:
        """Return every message once."""
        return self.messages


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways to go on after `prompt`: each is a conversation's remaining turns, and they differ."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    source: str
    id: str

    @property
    def sides(self) -> tuple[Messages, ...]:
        """Return two whole conversations, the chosen one first."""
        return self.prompt + self.chosen, self.prompt + self.rejected

    @property
    def said(self) -> Messages:
        """Return every message once."""
        return self.prompt + self.chosen + self.rejected


def first_question(messages: Messages) -> str:
    """Return what the user says first."""
    return next(m.content for m in messages if m.role == "user")


def words(messages: Messages) -> str:
    """Return all that is said, as one text to tell copies by."""
    return "\0".join(m.content for m in messages)


Kind = TypeVar("Kind", bound="Conversation | Preference")


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

    def only(self, kind: type[Kind]) -> Iterator[Kind]:
        """Yield the records of one kind; another's is a bad one."""
        for record in self:
            if isinstance(record, kind):
                yield record
            else:
                found, wanted = type(record).__name__.lower(), kind.__name__.lower()
                self.corpus.bad(f"{record.source}, record {record.id}: is a {found}, not a {wanted}")


def holds_conversations(specs: Sequence[str], text_key: str) -> bool:
    """Tell by every file's first record whether sources hold conversations rather than text under `text_key`.

    Raises DataError where some hold the one and some the other.
    """
    kinds: dict[bool, str] = {}
    for first in Corpus(specs, text_key=None, txt_unit="line", skip_bad=True).firsts():
        kinds.setdefault(text_key not in first.meta and has_shape(first.meta), first.source)
    if len(kinds) == 2:
        raise DataError(f"{kinds[True]}: holds conversations, and {kinds[False]} does not. Name one kind at a time")
    return True in kinds


def has_shape(record: Mapping[str, Any]) -> bool:
    """Tell by its keys whether a record is meant as a conversation or a preference, be it a right one or not."""
    return (
        ("chosen" in record and "rejected" in record)
        or any(isinstance(record.get(key), list) for key in _LISTS)
        or (_question(record) is not None and _answer(record) is not None)
    )


def parse(record: Mapping[str, Any], source: str = "", id: str = "") -> Conversation | Preference:
    """Make a conversation or a preference of a record. Raises BadRecord, which shows the record if no shape fits."""
    if "chosen" in record and "rejected" in record:
        return _preference(record, source, id)
    for key in _LISTS:
        if isinstance(record.get(key), list):
            turns = [*_system(record), *_turns(record[key])]
            return Conversation(_require_answer(_in_order(turns)), source, id)
    question, answer = _question(record), _answer(record)
    if question is None or answer is None:
        shown = json.dumps(dict(record), ensure_ascii=False, default=str)
        raise BadRecord(f"is of no known shape ({KNOWN}): {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}")
    turns = [*_system(record), *_history(record), Message("user", question), Message("assistant", answer)]
    return Conversation(_require_answer(_in_order(turns)), source, id)


def _question(record: Mapping[str, Any]) -> str | None:
    """Return the question; Alpaca's `input` follows its instruction."""
    question = next((record[key] for key in _QUESTIONS if isinstance(record.get(key), str)), None)
    more = record.get("input")
    if question is not None and isinstance(more, str) and more.strip():
        return f"{question}\n{more}"
    return question


def _answer(record: Mapping[str, Any]) -> str | None:
    return next((record[key] for key in _ANSWERS if isinstance(record.get(key), str)), None)


def _system(record: Mapping[str, Any]) -> list[Message]:
    system = record.get("system")
    return [Message("system", system)] if isinstance(system, str) and system.strip() else []


def _history(record: Mapping[str, Any]) -> list[Message]:
    """Return earlier turns, which some Alpaca sets keep as pairs of question and answer."""
    pairs = record.get("history") or []
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair) for pair in pairs):
        raise BadRecord("its history is no list of [question, answer]")
    roles = ("user", "assistant")
    return [Message(role, text) for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _turns(turns: Sequence[Any]) -> list[Message]:
    made: list[Message] = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadRecord(f"its turn {number} is no object")
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise BadRecord(f"its turn {number} has the role {role!r}. Known: {', '.join(_ROLES)}")
        if not isinstance(content, str):
            raise BadRecord(f"its turn {number} has no text (role {role!r})")
        made.append(Message(_ROLES[role.lower()], content))
    return made


def _in_order(turns: Sequence[Message]) -> Messages:
    """Require a system message first or none, then user and assistant in turn."""
    said = turns[1:] if turns and turns[0].role == "system" else turns
    for number, (turn, expected) in enumerate(zip(said, ("user", "assistant") * len(said), strict=False), 1):
        if turn.role != expected:
            raise BadRecord(
                f"its turns are out of order: turn {number} is the {turn.role}'s, not the {expected}'s", "out_of_order"
            )
        if not turn.content.strip():
            reason = "empty_question" if turn.role == "user" else "empty_answer"
            raise BadRecord(f"its turn {number}, the {turn.role}'s, is empty", reason)
    return tuple(turns)


def _require_answer(messages: Messages) -> Messages:
    if not messages or messages[-1].role != "assistant":
        raise BadRecord("it does not end with an answer of the assistant", "no_answer")
    return messages


def _preference(record: Mapping[str, Any], source: str, id: str) -> Preference:
    question = _question(record)
    sides = [_side(record[key], question, record) for key in ("chosen", "rejected")]
    shared = 0
    while shared < min(map(len, sides)) and sides[0][shared] == sides[1][shared]:
        shared += 1
    if sides[0] == sides[1]:
        raise BadRecord("its chosen and rejected are the same", "no_difference")
    prompt = sides[0][:shared]
    if not prompt or prompt[-1].role != "user":
        raise BadRecord("its chosen and rejected do not answer the same question")
    return Preference(prompt, sides[0][shared:], sides[1][shared:], source, id)


def _side(value: Any, question: str | None, record: Mapping[str, Any]) -> Messages:
    """Return a whole conversation: a list of turns may leave the question to the record, a string always does."""
    if isinstance(value, list):
        turns = _turns(value)
    elif isinstance(value, str):
        turns = [Message("assistant", value)]
    else:
        raise BadRecord("its chosen and rejected are neither messages nor texts")
    if turns and turns[0].role == "assistant":
        if question is None:
            raise BadRecord("its chosen and rejected are answers, and it has no prompt")
        turns = [*_system(record), *_history(record), Message("user", question), *turns]
    return _require_answer(_in_order(turns))
