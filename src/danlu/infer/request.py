"""What crosses the engine's wall: a request goes in, pieces of its answer come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from danlu.errors import ConfigError, DataError
from danlu.infer.sampling import Sampling


class Token(NamedTuple):
    """A token and how likely the model held it: nats, temperature 1, no penalties; None where nobody asked."""

    id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest ids in its place with their log-probabilities, likeliest first."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt's ids, begin mark included, and how it is continued.

    `sample` tells several answers to one prompt apart: each draws from the random stream of (seed, sample).
    `end_ids` are the marks that end it, None: the tokenizer's. `likeliest` asks for log-probabilities, and for so many
    alternatives; `score_prompt` for the prompt's as well, and then `max_new_tokens` may be 0.
    """

    ids: tuple[int, ...]
    max_new_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    sample: int = 0
    stop: tuple[str, ...] = ()
    end_ids: tuple[int, ...] | None = None
    likeliest: int | None = None
    score_prompt: bool = False

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError("a prompt without any token. Begin it with the document's begin mark")
        if self.max_new_tokens < (0 if self.score_prompt else 1):
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: must be 1 or more")
        if self.likeliest is not None and self.likeliest < 0:
            raise ConfigError(f"likeliest {self.likeliest}: must be 0 or more")
        if not all(self.stop):
            raise ConfigError("stop: an empty string would stop every text at once")


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer: whole characters, and the tokens drawn, which may be ahead of the text.

    Text that may yet turn out to begin a stop string is held back. `prompt` comes once, in the first piece. `stopped`
    is empty while the answer goes on, then says why it ends: eos (an end mark, the last of `tokens`), stop (a stop
    string), length (`max_new_tokens`), context (it is full), cancelled, or error, which `error` tells.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    prompt: tuple[Token, ...] = ()
    stopped: str = ""
    error: str = ""
