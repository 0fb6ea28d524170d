"""Conversations as token ids, by the tokenizer's own chat template: what transformers' `apply_chat_template` gives.

The template is rendered in Jinja's sandbox. A special token that stands literally in somebody's message stays plain
characters: only the template inserts special ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from danlu.data.chat import Conversation, Message, Preference
from danlu.errors import DataError, TokenizerError
from danlu.tokenizer import Tokenizer, token_text


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation's ids, and which of them are scored: the assistant's words and the mark that ends its turn."""

    ids: list[int]
    scored: list[bool]


class ChatTemplate:
    """Renders and encodes conversations. Raises TokenizerError where there is no template, or it is no Jinja."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.chat_template is None:
            raise TokenizerError("the tokenizer has no chat_template. Add one to its tokenizer_config.json")
        self.tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(tokenizer.chat_template)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"chat_template: is no template that Jinja reads ({error})") from None
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        self._tokens = {name: token_text(tokenizer.config.get(name)) for name in names}
        self._special = re.compile("|".join(map(re.escape, sorted(tokenizer.special_ids, key=len, reverse=True))))

    def end_of_turn(self) -> str:
        """Return the mark that ends an answer. Raises TokenizerError where the template sets none."""
        encoded = self.encode([Message("user", "?"), Message("assistant", "!")])
        last = next(i for i, is_scored in zip(encoded.ids[::-1], encoded.scored[::-1], strict=True) if is_scored)
        marks = {number: token for token, number in self.tokenizer.special_ids.items()}
        if last not in marks:
            raise TokenizerError("chat_template: ends an answer with no special token, so a model cannot learn to stop")
        return marks[last]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Return the text. Raises DataError for what the template refuses."""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        known = {name: token for name, token in self._tokens.items() if token is not None}
        try:
            return self._template.render(messages=turns, add_generation_prompt=add_generation_prompt, **known)
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"the chat template fails on it ({error})") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids after which the assistant's answer begins."""
        hidden, guarded = self._guarded(messages)
        return self._ids(self.render(guarded, add_generation_prompt=True), hidden)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Encode a whole conversation, its assistant's turns scored.

        Each answer begins at a token's edge, since generation begins there. Raises DataError where the template
        does not let a conversation grow turn by turn, so that no one can tell which part is the answer.
        """
        hidden, guarded = self._guarded(messages)
        ids: list[int] = []
        scored: list[bool] = []
        done = ""
        for number, message in enumerate(guarded):
            if message.role != "assistant":
                continue
            before = self.render(guarded[:number], add_generation_prompt=True)
            after = self.render(guarded[: number + 1])
            if not before.startswith(done) or not after.startswith(before):
                raise DataError("the chat template rewrites earlier turns, so an answer cannot be told from the rest")
            end = self._end_of_turn(after, len(before))
            for text, is_answer in ((before[len(done) :], False), (after[len(before) : end], True)):
                added = self._ids(text, hidden)
                ids += added
                scored += [is_answer] * len(added)
            done = after[:end]
        rest = self._ids(self.render(guarded)[len(done) :], hidden)
        return Encoded(ids + rest, scored + [False] * len(rest))

    def encode_sides(self, record: Conversation | Preference) -> list[Encoded]:
        """Encode a conversation, or both sides of a pair: there the last answers are compared, not what is before."""
        asked = len(self.prompt(record.prompt)) if isinstance(record, Preference) else 0
        sides = [self.encode(side) for side in record.sides]
        return [Encoded(side.ids, [False] * asked + side.scored[asked:]) for side in sides]

    def stretches(self, encoded: Encoded) -> Iterator[tuple[str, bool]]:
        """Yield the text that a model reads, special tokens shown: pieces, and whether each is scored."""
        at = 0
        for is_scored, same in groupby(encoded.scored):
            start, at = at, at + len(list(same))
            yield self.tokenizer.decode(encoded.ids[start:at]), is_scored

    def _end_of_turn(self, text: str, start: int) -> int:
        """Return where the mark that ends the turn ends; the turn's own end where it has none."""
        marks = [match.end() for match in self._special.finditer(text, start)] if self._special.pattern else []
        return marks[-1] if marks else len(text)

    def _guarded(self, messages: Sequence[Message]) -> tuple[str, list[Message]]:
        """Break the special tokens that stand in messages by a character that no message holds."""
        said = "".join(m.content for m in messages)
        hidden = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in said)

        def guard(match: re.Match[str]) -> str:
            return match[0][0] + hidden + match[0][1:]

        if not self._special.pattern or not self._special.search(said):
            return hidden, list(messages)
        return hidden, [Message(m.role, self._special.sub(guard, m.content)) for m in messages]

    def _ids(self, text: str, hidden: str) -> list[int]:
        ids: list[int] = []
        for piece, special_id in self._pieces(text):
            ids += [special_id] if special_id is not None else self.tokenizer.encode(piece.replace(hidden, ""))
        return ids

    def _pieces(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Cut a text at its special tokens."""
        at = 0
        for match in self._special.finditer(text) if self._special.pattern else ():
            if match.start() > at:
                yield text[at : match.start()], None
            yield match[0], self.tokenizer.special_ids[match[0]]
            at = match.end()
        if at < len(text):
            yield text[at:], None


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
