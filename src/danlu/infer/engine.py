"""Text out of a model: prefill, then one token at a time over a static cache.

A prompt is read as eos, then its tokens: a document's beginning in training looks the same.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.infer.sampling import Sampling, draw, penalise, probabilities
from danlu.model import Model
from danlu.model.cache import Cache
from danlu.tokenizer import Tokenizer
from danlu.train.devices import seed_for

OnText = Callable[[int, str], None]
"""Called with a sample's number and the next piece of its text."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Continuations of one prompt; `tokens` counts all new ones, a drawn eos too.

    `stopped` says why each sample ended: eos, length (`max_new_tokens`), or context.
    """

    prompt: str
    texts: list[str]
    tokens: int
    seconds: float
    stopped: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Return the new tokens of all samples a second, prefill included."""
        return self.tokens / max(self.seconds, 1e-9)


class _Row:
    """One sample under way: its ids, its random stream, and the bytes not yet whole characters."""

    def __init__(self, generator: torch.Generator, on_text: Callable[[str], None]):
        self.generator, self.on_text = generator, on_text
        self.ids: list[int] = []
        self.text = self.stopped = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, token: int, piece: bytes) -> None:
        """Add a token; hand on whatever are whole characters now."""
        self.ids.append(token)
        self._say(self._decoder.decode(piece))

    def finish(self, stopped: str) -> None:
        """Note why the row ends, once; bytes still held back were no whole character."""
        if not self.stopped:
            self.stopped = stopped
            self._say(self._decoder.decode(b"", final=True))

    def _say(self, text: str) -> None:
        if text:
            self.text += text
            self.on_text(text)


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    seed: int = 0,
    samples: int = 1,
    on_text: OnText | None = None,
) -> Generated:
    """Continue `prompt`, a text or a conversation's ids; stop at an end mark or after `max_new_tokens`.

    It stops where the context ends, too; the article family goes on.

    Sample i draws from the random stream of (seed, i), whatever `samples` is. Raises DataError for a prompt that
    does not fit into the context, ConfigError for counts below 1, CheckpointError for logits that are not finite.
    """
    if max_new_tokens < 1 or samples < 1:
        raise ConfigError(f"max_new_tokens {max_new_tokens}, samples {samples}: both must be 1 or more")
    started = time.perf_counter()
    if isinstance(prompt, str):
        prompt_ids = [tokenizer.document_id, *tokenizer.encode(prompt)]
    else:
        prompt_ids, prompt = list(prompt), tokenizer.decode(prompt)
    if len(prompt_ids) > model.context:
        raise DataError(
            f"the prompt has {len(prompt_ids):,} tokens with its begin mark, but the model's context holds "
            f"{model.context:,}. Shorten the prompt"
        )
    rows = [
        _Row(
            torch.Generator().manual_seed(seed_for(seed, "sample", i)),
            partial(on_text, i) if on_text else lambda _: None,
        )
        for i in range(samples)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), model.frozen():
            _Decoding(model, tokenizer, prompt_ids, rows, sampling or Sampling()).run(max_new_tokens)
    finally:
        model.train(was_training)
    tokens = sum(len(row.ids) for row in rows)
    return Generated(prompt, [r.text for r in rows], tokens, time.perf_counter() - started, [r.stopped for r in rows])


class _Decoding:
    """The loop over tokens for the rows of one prompt. A row that has stopped is computed on, and not looked at."""

    def __init__(self, model: Model, tokenizer: Tokenizer, prompt_ids: list[int], rows: list[_Row], sampling: Sampling):
        self.model, self.tokenizer, self.rows, self.sampling = model, tokenizer, rows, sampling
        self.device = model.output_weight.device
        self.read_RT = torch.tensor([prompt_ids]).repeat(len(rows), 1)
        self.entries = min(tokenizer.vocab_size, model.vocab_size)
        self.seen_RV = torch.zeros(len(rows), self.entries, dtype=torch.bool)
        self.seen_RV[:, prompt_ids[1:]] = True  # the begin mark is no repetition: it would put the end off

    def run(self, max_new_tokens: int) -> None:
        """Generate until every row has stopped."""
        cache = self.model.new_cache(len(self.rows), min(self.model.context, self.read_RT.shape[1] + max_new_tokens))
        new_RT = self.read_RT
        for _ in range(max_new_tokens):
            logits_RV = self._logits(new_RT, cache)
            if logits_RV is None:
                break
            tokens_R = self._choose(logits_RV)
            self._take(tokens_R.tolist())
            if all(row.stopped for row in self.rows):
                return
            new_RT = tokens_R[:, None]
            self.read_RT = torch.cat([self.read_RT, new_RT], 1)
        for row in self.rows:
            row.finish("length" if len(row.ids) == max_new_tokens else "context")

    def _logits(self, new_RT: Tensor, cache: Cache) -> Tensor | None:
        """Read the new tokens; where the context is full, stop, or (the article's way) read its end again."""
        if max(cache.lengths) + new_RT.shape[1] <= self.model.context:
            return self._last(new_RT, cache)
        if self.model.model_type == "danlu_article":
            return self._last(self.read_RT[:, -self.model.context :], None)
        return None

    def _last(self, ids_RT: Tensor, cache: Cache | None) -> Tensor:
        logits_RTV = self.model(ids_RT.to(self.device), cache=cache).logits_BTV
        logits_RV = logits_RTV[:, -1, : self.entries].float().cpu()  # a model's spare entries have no text
        if not logits_RV.isfinite().all():
            raise CheckpointError("the model's logits are not finite: its weights are broken, or use --precision fp32")
        return logits_RV

    def _choose(self, logits_RV: Tensor) -> Tensor:
        if self.sampling.repetition_penalty != 1:
            logits_RV = penalise(logits_RV, self.seen_RV, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            tokens_R = logits_RV.argmax(-1)
        else:
            tokens_R = draw(probabilities(logits_RV, self.sampling), [row.generator for row in self.rows])
        self.seen_RV.scatter_(1, tokens_R[:, None], True)
        return tokens_R

    def _take(self, tokens: list[int]) -> None:
        for row, token in zip(self.rows, tokens, strict=True):
            if row.stopped:
                continue
            if token in self.tokenizer.end_ids:
                row.ids.append(token)
                row.finish("eos")
            else:
                row.take(token, self.tokenizer.token_bytes(token))
