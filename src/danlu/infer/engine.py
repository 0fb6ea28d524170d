"""Text out of a model: many requests at once, each of which joins and leaves between two steps.

Every request has a row of a static cache. Rows that write lie side by side at its beginning, so that a step reads one
token of each by one pass over the weights; a prompt is read by itself, piece by piece. A row that is free keeps what it
read, and a prompt that begins alike does not read that again.

A prompt is read as eos, then its tokens: a document's beginning in training looks the same.

Shapes: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.infer.reply import OnPiece, Reply
from danlu.infer.request import Request
from danlu.infer.sampling import draw, probabilities
from danlu.model import Model
from danlu.tokenizer import Tokenizer

_READ_AT_ONCE = 512
"""A step reads so many tokens of prompts at most, so that who writes already need not wait long."""
_WORTH_COPYING = 32
"""Fewer tokens of a common beginning are read again rather than copied."""


@dataclass(slots=True)
class _Row:
    """A row of the cache: the ids whose keys and values it holds, and whose answer it works on."""

    ids: list[int] = field(default_factory=list)
    reply: Reply | None = None
    used: int = 0
    """The step in which it was last needed."""

    def shares(self, ids: Sequence[int]) -> int:
        """Count the first tokens that are the same."""
        pairs = zip(self.ids, ids, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.ids), len(ids)))


class Engine:
    """Answers requests with one model, up to `slots` at a time, each up to `length` tokens with its prompt.

    Use it in a `with` block: meanwhile the weights must not change. Not for several threads: see `Worker`.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, slots: int = 1, length: int | None = None):
        if slots < 1:
            raise ConfigError(f"slots {slots}: must be 1 or more")
        self.model, self.tokenizer = model, tokenizer
        self.length = min(length or model.context, model.context)
        self.entries = min(tokenizer.vocab_size, model.vocab_size)  # a model's spare entries have no text
        self._cache = model.new_cache(slots, self.length)
        self._rows = [_Row() for _ in range(slots)]
        self._writing = 0
        """The first so many rows write; the next one may be reading its prompt."""
        self._reading: _Row | None = None
        self._past_context: list[Reply] = []
        """Answers beyond the context, which the article's model goes on with: it reads the end of the text anew."""
        self._waiting: deque[Reply] = deque()
        self._step = 0
        self._open = ExitStack()

    def __enter__(self) -> Engine:
        was_training = self.model.training
        self._open.callback(self.model.train, was_training)
        self.model.eval()
        self._open.enter_context(self.model.frozen())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def waiting(self) -> int:
        """Count the requests whose prompt nobody has begun to read."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Tell whether any request is not answered yet."""
        return bool(self._waiting or self.running)

    @property
    def running(self) -> int:
        """Count the requests that are being answered."""
        return self._writing + len(self._past_context) + (self._reading is not None)

    def check(self, request: Request) -> None:
        """Raise DataError where the prompt does not fit into the context."""
        if len(request.ids) > self.length:
            raise DataError(
                f"the prompt has {len(request.ids):,} tokens with its begin mark, but the model's context holds "
                f"{self.length:,}. Shorten the prompt"
            )

    def submit(self, request: Request, on_piece: OnPiece) -> Reply:
        """Take a request; `on_piece` is called within `step`. Raises DataError for a prompt that does not fit."""
        self.check(request)
        reply = Reply(request, self.tokenizer, self.entries, on_piece)
        self._waiting.append(reply)
        return reply

    def cancel(self, reply: Reply) -> None:
        """End an answer; its row is free in the next step."""
        reply.finish("cancelled")

    def abandon(self, error: str) -> None:
        """End all answers by an error."""
        for reply in [*self._replies(), *self._waiting]:
            reply.finish("error", error)
        self._forget_stopped()
        for row in self._rows:  # a step that failed may have noted what it did not store
            row.ids = []

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of every answer, and read of the waiting prompts.

        Raises CheckpointError for logits that are not finite: the model's weights are broken.
        """
        self._step += 1
        self._forget_stopped()
        logits_RV = [self._next_logits()] if self._writing else []
        logits_RV += self._read_prompts()
        if self._past_context:
            ids_RT = torch.tensor([reply.read[-self.length :] for reply in self._past_context])
            logits_RV.append(self._last(self.model(self._on_device(ids_RT)).logits_BTV))
        if logits_RV:
            self._write(torch.cat(logits_RV))
        self._forget_stopped()

    def _replies(self) -> list[Reply]:
        """Return the answers under way, those that write first, in the order of their rows."""
        rows = self._rows[: self._writing] + ([self._reading] if self._reading else [])
        return [row.reply for row in rows if row.reply] + self._past_context

    def _next_logits(self) -> Tensor:
        """Read the newest token of every row that writes."""
        rows = self._rows[: self._writing]
        cache = self._cache.rows(0, [len(row.ids) for row in rows])
        for row in rows:
            assert row.reply is not None
            row.ids.append(row.reply.read[-1])
            row.used = self._step
        ids_RT = torch.tensor([row.ids[-1:] for row in rows])
        return self._last(self.model(self._on_device(ids_RT), cache=cache).logits_BTV)

    def _read_prompts(self) -> list[Tensor]:
        """Read waiting prompts, as much as one step may; return the logits of those that are through."""
        room, found = _READ_AT_ONCE, []
        while room > 0 and (self._reading or self._admit()):
            row = self._reading
            assert row is not None
            assert row.reply is not None
            ids = row.reply.request.ids
            new = ids[len(row.ids) : len(row.ids) + room]
            cache = self._cache.rows(self._writing, [len(row.ids)])
            logits_TV = self.model(self._on_device(torch.tensor([new])), cache=cache).logits_BTV[0]
            if row.reply.request.score_prompt:
                scored = list(ids[len(row.ids) + 1 : len(row.ids) + 1 + len(new)])
                row.reply.score(scored, self._checked(logits_TV[: len(scored)]))
            row.ids += new
            row.used = self._step
            room -= len(new)
            if len(row.ids) == len(ids):
                self._reading = None
                self._writing += 1
                found.append(self._last(logits_TV[None]))
        return found

    def _admit(self) -> bool:
        """Give the next request a row, the one that shares most with its prompt; say whether there was one."""
        if not self._waiting or self.running == len(self._rows):
            return False
        reply = self._waiting.popleft()
        ids = reply.request.ids[:-1]  # the last token is read in any case, since its logits are wanted
        shared = [0] * len(self._rows) if reply.request.score_prompt else [row.shares(ids) for row in self._rows]
        free = range(self._writing, len(self._rows))
        best = max(free, key=lambda i: (shared[i], -self._rows[i].used))
        giver = max(range(len(shared)), key=shared.__getitem__)
        copied = giver not in free and shared[giver] - shared[best] >= _WORTH_COPYING
        if copied:
            best = min(free, key=lambda i: self._rows[i].used)
            self._cache.copy(giver, best, shared[giver])
        row = self._reading = self._rows[best]
        row.reply, row.ids = reply, list(ids[: shared[giver if copied else best]])
        self._swap(best, self._writing)
        return True

    def _swap(self, one: int, other: int) -> None:
        rows = self._rows
        if one != other:
            self._cache.swap(one, other, max(len(rows[one].ids), len(rows[other].ids)))
            rows[one], rows[other] = rows[other], rows[one]

    def _on_device(self, ids_RT: Tensor) -> Tensor:
        return ids_RT.to(self.model.output_weight.device)

    def _last(self, logits_RTV: Tensor) -> Tensor:
        return self._checked(logits_RTV[:, -1])

    def _checked(self, logits_RV: Tensor) -> Tensor:
        logits_RV = logits_RV[:, : self.entries].float().cpu()
        if not logits_RV.isfinite().all():
            raise CheckpointError("the model's logits are not finite: its weights are broken, or use --precision fp32")
        return logits_RV

    def _write(self, logits_RV: Tensor) -> None:
        """Draw a token for every answer whose logits these are, and hand it on."""
        replies = [row.reply for row in self._rows[: self._writing] if row.reply] + self._past_context
        wanting = [i for i, reply in enumerate(replies) if reply.request.max_new_tokens]
        for reply in replies:
            if not reply.request.max_new_tokens:
                reply.finish("length")
        if not wanting:
            return
        replies = [replies[i] for i in wanting]
        logits_RV = logits_RV if len(wanting) == len(logits_RV) else logits_RV[wanting]
        tokens = self._choose(logits_RV, replies).tolist()
        for reply, token, logits_V in zip(replies, tokens, logits_RV, strict=True):
            reply.take(reply.scored(token, logits_V))

    def _choose(self, logits_RV: Tensor, replies: Sequence[Reply]) -> Tensor:
        looking_back = [i for i, reply in enumerate(replies) if reply.history is not None]
        if looking_back:
            logits_RV = logits_RV.clone()
        for i in looking_back:
            history = replies[i].history
            assert history is not None
            logits_RV[i] = history.change(logits_RV[i])
        samplings = [reply.request.sampling for reply in replies]
        if all(sampling.temperature == 0 for sampling in samplings):
            return logits_RV.argmax(-1)
        return draw(probabilities(logits_RV, samplings), [reply.generator for reply in replies])

    def _forget_stopped(self) -> None:
        """Free the rows of answers that have ended; what these hold stays, for a prompt that begins alike."""
        for i in reversed(range(self._writing)):
            row = self._rows[i]
            assert row.reply is not None
            if len(row.ids) == self.length:
                self._go_beyond(row.reply)
            if row.reply.stopped or row.reply in self._past_context:
                row.reply = None
                self._writing -= 1
                self._swap(i, self._writing)
                if self._reading:
                    self._swap(self._writing, self._writing + 1)
        if self._reading and self._reading.reply and self._reading.reply.stopped:
            self._reading.reply, self._reading = None, None
        self._past_context = [reply for reply in self._past_context if not reply.stopped]
        self._waiting = deque(reply for reply in self._waiting if not reply.stopped)

    def _go_beyond(self, reply: Reply) -> None:
        """Where the context is full, stop; the article's way is to read the end of the text again for every token."""
        if self.model.model_type == "danlu_article":
            self._past_context.append(reply)
        else:
            reply.finish("context")
