"""A request as the engine takes it, and its answer in OpenAI's words: what chat and completions have in common."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

from danlu.infer.request import Piece, Request, Token
from danlu.serve.desk import Answers, joined
from danlu.serve.errors import ApiError
from danlu.serve.schema import MOST_CHOICES, Ask
from danlu.serve.served import Prompt, Served

_FINISH = {"": None, "eos": "stop", "stop": "stop", "length": "length", "context": "length"}
_NEVER = -9999.0
"""What OpenAI writes for the logarithm of 0."""


class Form(ABC):
    """One request and the shape of its answer; `requests` has one entry for each of its choices."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, ask: Ask, served: Served, prompts: Sequence[Prompt]):
        self.served, self.prompts, self.n = served, prompts, ask.n or 1
        if len(prompts) * self.n > MOST_CHOICES:
            raise ApiError(400, f"n: prompts × n may be {MOST_CHOICES} at most", param="n", code="invalid_value")
        self._tells_usage = ask.tells_usage
        self._id, self._created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        seed = secrets.randbits(32) if ask.seed is None else ask.seed
        sampling = ask.sampling(served.sampling)
        self.requests = [
            Request(
                ids=prompt.ids,
                max_new_tokens=self._most_tokens(prompt),
                sampling=sampling,
                seed=seed,
                sample=sample,
                stop=(*ask.stop, *prompt.stop),
                end_ids=prompt.end_ids,
                likeliest=self._likeliest(),
                score_prompt=self._scores_prompt(),
            )
            for prompt in prompts
            for sample in range(self.n)
        ]

    @abstractmethod
    def _most_tokens(self, prompt: Prompt) -> int:
        """Return the longest answer to a prompt."""

    @abstractmethod
    def _likeliest(self) -> int | None:
        """Return how many alternatives to a token are told, None where not even its own probability is."""

    def _scores_prompt(self) -> bool:
        return False

    @abstractmethod
    def choice(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return a whole answer as a choice."""

    @abstractmethod
    def chunk(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return what is new of an answer as a choice of a stream."""

    def first_chunk(self, number: int) -> dict[str, Any] | None:
        """Return the choice that a stream begins with, if it does."""
        return None

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """Wait for all answers, and return the body."""
        pieces: list[list[Piece]] = [[] for _ in self.requests]
        async for number, piece in answers:
            pieces[number].append(piece)
        choices = [self.choice(number, joined(those)) for number, those in enumerate(pieces)]
        return {**self._envelope(self.whole_object, choices), "usage": answers.usage()}

    async def events(self, answers: Answers) -> AsyncIterator[bytes]:
        """Yield the events of a stream: chunks as they come, the counts where asked for, the end; or an error."""
        for number in range(len(self.requests)):
            if (first := self.first_chunk(number)) is not None:
                yield self._event([first])
        tells_tokens = self._likeliest() is not None
        try:
            async for number, piece in answers:
                if piece.text or piece.stopped or (tells_tokens and piece.tokens):
                    yield self._event([self.chunk(number, piece)])
        except ApiError as error:
            yield event(error.body())
            return
        if self._tells_usage:
            yield event({**self._envelope(self.chunk_object, []), "usage": answers.usage()})
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        nothing = {"usage": None} if self._tells_usage else {}
        return event({**self._envelope(self.chunk_object, choices), **nothing})

    def _envelope(self, object_name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": object_name,
            "created": self._created,
            "model": self.served.name,
            "choices": choices,
        }

    def spelled(self, token: int) -> str:
        """Return a token as a client is told it: its text, or its bytes where they are no whole characters."""
        raw = self.served.tokenizer.token_bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    @staticmethod
    def finish_reason(piece: Piece) -> str | None:
        """Return OpenAI's word for why an answer ended: a full context is a length, too."""
        return _FINISH[piece.stopped]


def logprob_of(token: Token) -> float | None:
    """Return a token's log-probability as JSON can hold it."""
    return None if token.logprob is None else max(token.logprob, _NEVER)


def alternatives_of(token: Token) -> list[tuple[int, float]]:
    """Return a token's alternatives with log-probabilities as JSON can hold them."""
    return [(other, max(logprob, _NEVER)) for other, logprob in token.likeliest]


def as_json(value: Any) -> bytes:
    """Return JSON in UTF-8, without the line separators at which some readers of streams cut lines."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for separator in ("\u0085", "\u2028", "\u2029"):
        if separator in text:
            text = text.replace(separator, f"\\u{ord(separator):04x}")
    return text.encode()


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + as_json(value) + b"\n\n"
