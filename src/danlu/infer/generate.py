"""Prompts continued by an engine made for them: one, once or several times, or many, each once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from danlu.errors import ConfigError
from danlu.infer.engine import Engine
from danlu.infer.reply import OnPiece, Reply
from danlu.infer.request import Piece, Request
from danlu.infer.sampling import Sampling
from danlu.model import Model
from danlu.tokenizer import Tokenizer

OnText = Callable[[int, str], None]
"""Called with a sample's number and the next piece of its text."""

_SAMPLES_AT_ONCE = 64
"""So many are written at a time; further ones wait for one to end."""
_REQUESTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Generated:
    """Continuations of one prompt; `tokens` counts all new ones, a drawn eos too.

    `stopped` says why each sample ended: see `Piece`.
    """

    prompt: str
    texts: list[str]
    tokens: int
    seconds: float
    stopped: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Return the new tokens of all samples a second; reading the prompt counts, laying out the weights does not."""
        return self.tokens / max(self.seconds, 1e-9)


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    seed: int = 0,
    samples: int = 1,
    stop: Sequence[str] = (),
    on_text: OnText | None = None,
) -> Generated:
    """Continue `prompt`, a text or a conversation's ids; stop at an end mark, a stop string or `max_new_tokens`.

    It stops where the context ends, too; the article family goes on.

    Sample i draws from the random stream of (seed, i), whatever `samples` is. Raises DataError for a prompt that
    does not fit into the context, ConfigError for counts below 1, CheckpointError for logits that are not finite.
    """
    if max_new_tokens < 1 or samples < 1:
        raise ConfigError(f"max_new_tokens {max_new_tokens}, samples {samples}: both must be 1 or more")
    if isinstance(prompt, str):
        prompt_ids = (tokenizer.document_id, *tokenizer.encode(prompt))
    else:
        prompt_ids, prompt = tuple(prompt), tokenizer.decode(prompt)
    texts = [""] * samples

    def taker(sample: int) -> OnPiece:
        def take(piece: Piece) -> None:
            if piece.text:
                texts[sample] += piece.text
                if on_text:
                    on_text(sample, piece.text)

        return take

    length = min(model.context, len(prompt_ids) + max_new_tokens)
    with Engine(model, tokenizer, min(samples, _SAMPLES_AT_ONCE), length) as engine:
        started = time.perf_counter()
        replies = [
            engine.submit(
                Request(prompt_ids, max_new_tokens, sampling or Sampling(), seed, sample, tuple(stop)), taker(sample)
            )
            for sample in range(samples)
        ]
        while engine.busy:
            engine.step()
        seconds = time.perf_counter() - started
    tokens = sum(reply.tokens for reply in replies)
    return Generated(prompt, texts, tokens, seconds, [reply.stopped for reply in replies])


def generate_many(model: Model, tokenizer: Tokenizer, requests: Iterable[Request]) -> Iterator[tuple[str, str]]:
    """Yield each request's text and why it ended, in their order; many are answered at once, few are looked ahead.

    Raises what `generate` raises. Between two yields the weights must not change.
    """
    under_way: deque[tuple[Reply, list[str]]] = deque()
    with Engine(model, tokenizer, _REQUESTS_AT_ONCE) as engine:
        for request in requests:
            pieces: list[str] = []
            under_way.append((engine.submit(request, lambda piece, pieces=pieces: pieces.append(piece.text)), pieces))
            while engine.waiting and engine.waiting + engine.running >= _REQUESTS_AT_ONCE:
                engine.step()
            yield from _finished(under_way)
        while under_way:
            engine.step()
            yield from _finished(under_way)


def _finished(under_way: deque[tuple[Reply, list[str]]]) -> Iterator[tuple[str, str]]:
    """Take the answers at the front that have ended."""
    while under_way and under_way[0][0].stopped:
        reply, pieces = under_way.popleft()
        yield "".join(pieces), reply.stopped
