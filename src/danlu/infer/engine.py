"""Text out of a model: prefill, then one token at a time over a static cache.

A prompt is read as eos, then its tokens: a document's beginning in training looks the same.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danlu.errors import ConfigError, DataError
from danlu.infer.sampling import Sampling, draw, penalise, probabilities
from danlu.model import Model
from danlu.model.cache import Cache
from danlu.tokenizer import Tokenizer

OnText = Callable[[int, str], None]
"""Called with a sample's number and the next piece of its text."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Continuations of one prompt; `tokens` counts all new ones, `stopped` says why each sample ended."""

    prompt: str
    texts: list[str]
    tokens: int
    seconds: float
    stopped: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Return the new tokens of all samples a second, prefill included."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class _Row:
    """One sample under way: its ids, its random stream, and the bytes not yet whole characters."""

    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    text: str = ""
    stopped: str = ""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self, token: int, piece: bytes, on_text: Callable[[str], None]) -> None:
        """Add a token; hand on whatever are whole characters now."""
        self.ids.append(token)
        self.say(self.decoder.decode(piece), on_text)

    def say(self, text: str, on_text: Callable[[str], None]) -> None:
        """Hand on a piece of text."""
        if text:
            self.text += text
            on_text(text)


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    seed: int = 0,
    samples: int = 1,
    on_text: OnText | None = None,
) -> Generated:
    """Continue `prompt`; stop at eos, after `max_new_tokens`, or where the context ends (the article family goes on).

    Sample i draws from a random stream of its own, so it is the same whatever `samples` is. Raises DataError for a
    prompt that does not fit into the context.
    """
    if max_new_tokens < 1 or samples < 1:
        raise ConfigError("max_new_tokens and samples must be 1 or more")
    started = time.perf_counter()
    prompt_ids = [tokenizer.eos_id, *tokenizer.encode(prompt)]
    if len(prompt_ids) >= model.context:
        raise DataError(
            f"the prompt has {len(prompt_ids) - 1:,} tokens, but the model's context holds {model.context:,} with at "
            "least one to come. Shorten it"
        )
    rows = [_Row(torch.Generator().manual_seed(seed + i)) for i in range(samples)]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), model.frozen():
            _Decoding(model, tokenizer, prompt_ids, rows, sampling or Sampling(), on_text).run(max_new_tokens)
    finally:
        model.train(was_training)
    tokens = sum(len(row.ids) for row in rows)
    return Generated(prompt, [r.text for r in rows], tokens, time.perf_counter() - started, [r.stopped for r in rows])


class _Decoding:
    """The loop over tokens for the rows of one prompt."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        rows: list[_Row],
        sampling: Sampling,
        on_text: OnText | None,
    ):
        self.model, self.tokenizer, self.rows, self.sampling = model, tokenizer, rows, sampling
        self.prompt_ids, self.on_text = prompt_ids, on_text
        self.device = model.output_weight.device

    def run(self, max_new_tokens: int) -> None:
        """Generate until every row has stopped."""
        length = min(self.model.context, len(self.prompt_ids) + max_new_tokens)
        cache = self.model.new_cache(len(self.rows), length)
        ids_RT = torch.tensor([self.prompt_ids], device=self.device).expand(len(self.rows), -1)
        for _ in range(max_new_tokens):
            logits_RV = self._logits(ids_RT, cache)
            if logits_RV is None:
                break
            tokens = self._choose(logits_RV)
            self._take(tokens)
            if all(row.stopped for row in self.rows):
                break
            ids_RT = torch.tensor(tokens, device=self.device)[:, None]
        for number, row in enumerate(self.rows):
            row.stopped = row.stopped or "length"
            row.say(row.decoder.decode(b"", final=True), self._teller(number))

    def _logits(self, ids_RT: Tensor, cache: Cache) -> Tensor | None:
        """Read the new tokens; where the context is full, stop, or (absolute positions) read its end again."""
        if max(cache.lengths) + ids_RT.shape[1] > self.model.context:
            if self.model.model_type != "danlu_article":
                for row in self.rows:
                    row.stopped = row.stopped or "context"
                return None
            everything = torch.tensor([self.prompt_ids + row.ids for row in self.rows], device=self.device)
            return self._last(everything[:, -self.model.context :], None)
        return self._last(ids_RT, cache)

    def _last(self, ids_RT: Tensor, cache: Cache | None) -> Tensor:
        logits = self.model(ids_RT, cache=cache).logits_BTV
        return logits[:, -1].float().cpu()

    def _choose(self, logits_RV: Tensor) -> list[int]:
        if self.sampling.repetition_penalty != 1:
            seen_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
            for number, row in enumerate(self.rows):
                seen_RV[number, [*self.prompt_ids, *row.ids]] = True
            logits_RV = penalise(logits_RV, seen_RV, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            return logits_RV.argmax(-1).tolist()
        return draw(probabilities(logits_RV, self.sampling), [row.generator for row in self.rows]).tolist()

    def _take(self, tokens: list[int]) -> None:
        for number, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.stopped:
                row.ids.append(token)  # keeps the rows even; it is never shown
            elif token == self.tokenizer.eos_id or token >= self.tokenizer.vocab_size:
                row.stopped = "eos"
                row.ids.append(token)
            else:
                row.take(token, self.tokenizer.token_bytes(token), self._teller(number))

    def _teller(self, number: int) -> Callable[[str], None]:
        return lambda text: self.on_text(number, text) if self.on_text else None
