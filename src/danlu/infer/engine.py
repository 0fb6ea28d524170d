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

import torch
from torch import Tensor

from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.infer.reply import OnPiece, Reply
from danlu.infer.request import Request
from danlu.infer.rows import WORTH_COPYING, Row, Rows, shared
from danlu.infer.sampling import draw, probabilities
from danlu.model import Model
from danlu.tokenizer import Tokenizer

_READ_AT_ONCE = 512
"""A step reads so many tokens of prompts at most, so that who writes already need not wait long."""


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
        self._rows = Rows(model.new_cache(slots, self.length))
        self._past_context: list[Reply] = []
        """Answers beyond the context, which the article's model goes on with: it reads the end of the text anew."""
        self._waiting: deque[Reply] = deque()
        self._slots = slots
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
        return len(self._rows.writing) + len(self._rows.reading) + len(self._past_context)

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
        for row in [*self._rows.writing, *self._rows.reading]:
            if row.reply:
                row.reply.finish("error", error)
        for reply in [*self._past_context, *self._waiting]:
            reply.finish("error", error)
        self._forget_stopped()
        self._rows.forget()  # a step that failed may have noted what it did not store

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of every answer, and read of the waiting prompts.

        Raises CheckpointError for logits that are not finite: the model's weights are broken.
        """
        self._forget_stopped()
        logits_RV = [self._next_logits()] if self._rows.writing else []
        logits_RV += self._read_prompts()
        if self._past_context:
            ids_RT = torch.tensor([reply.read[-self.length :] for reply in self._past_context])
            logits_RV.append(self._checked(self.model(self._on_device(ids_RT)).logits_BTV[:, -1]))
        if logits_RV:
            self._write(torch.cat(logits_RV))
        self._forget_stopped()

    def _next_logits(self) -> Tensor:
        """Read the newest token of every row that writes."""
        cache = self._rows.cache_of_writing()
        for row in self._rows.writing:
            assert row.reply is not None
            row.ids.append(row.reply.read[-1])
        ids_RT = torch.tensor([row.ids[-1:] for row in self._rows.writing])
        return self._checked(self.model(self._on_device(ids_RT), cache=cache).logits_BTV[:, -1])

    def _read_prompts(self) -> list[Tensor]:
        """Read waiting prompts, as much as one step may; return the logits of those that are through."""
        room, found = _READ_AT_ONCE, []
        while room > 0 and self._admit(room):
            rows, cache = self._rows.reading, self._rows.cache_of_reading()
            width = min(room, max(len(row.unread) for row in rows))
            new = [row.unread[:width] for row in rows]
            ids_RT = torch.tensor([[*ids, *(0 for _ in range(width - len(ids)))] for ids in new])
            logits_RTV = self.model(self._on_device(ids_RT), cache=cache).logits_BTV
            for row, ids, logits_TV in zip(rows, new, logits_RTV, strict=True):
                self._score(row, logits_TV[: len(ids)])
                row.ids += ids
                if not row.unread:
                    found.append(self._checked(logits_TV[len(ids) - 1 : len(ids)]))
            room -= width * len(rows)
            if not any(row.unread for row in rows):
                self._rows.begin_to_write()
        return found

    def _admit(self, room: int) -> bool:
        """Give rows to waiting requests, as many as can be read together; tell whether there is anything to read.

        Shorter prompts are padded to the longest, so that one pass over the weights reads all. A prompt that begins
        like one of them waits, for then it can copy.
        """
        while self._waiting and self.running < self._slots:
            rows, ids = self._rows.reading, self._waiting[0].request.ids
            longest = max([len(ids), *(len(row.unread) for row in rows)])
            alike = any(row.reply and shared(row.reply.request.ids, ids) >= WORTH_COPYING for row in rows)
            fits = longest * (len(rows) + 1) <= room and all(len(row.ids) + longest <= self.length for row in rows)
            if rows and (alike or not fits):
                break
            self._rows.take(self._waiting.popleft())
        return bool(self._rows.reading)

    def _score(self, row: Row, logits_TV: Tensor) -> None:
        """Tell the answer how likely its prompt's tokens are, where it wants to know."""
        assert row.reply is not None
        if row.reply.request.score_prompt:
            ids = row.reply.request.ids[len(row.ids) + 1 :][: len(logits_TV)]
            row.reply.score(list(ids), self._checked(logits_TV[: len(ids)]))

    def _on_device(self, ids_RT: Tensor) -> Tensor:
        return ids_RT.to(self.model.output_weight.device)

    def _checked(self, logits_RV: Tensor) -> Tensor:
        logits_RV = logits_RV[:, : self.entries].float().cpu()
        if logits_RV.numel() and not all(bound.isfinite() for bound in logits_RV.aminmax()):  # NaN is least and most
            raise CheckpointError("the model's logits are not finite: its weights are broken, or use --precision fp32")
        return logits_RV

    def _write(self, logits_RV: Tensor) -> None:
        """Draw a token for every answer whose logits these are, and hand it on."""
        replies = [row.reply for row in self._rows.writing if row.reply] + self._past_context
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
        for row in self._rows.writing:
            if row.reply and len(row.ids) == self.length and not row.stopped:
                self._go_beyond(row)
        self._rows.release()
        self._past_context = [reply for reply in self._past_context if not reply.stopped]
        self._waiting = deque(reply for reply in self._waiting if not reply.stopped)

    def _go_beyond(self, row: Row) -> None:
        """Where the context is full, stop; the article's way is to read the end of the text again for every token."""
        assert row.reply is not None
        if self.model.model_type == "danlu_article":
            self._past_context.append(row.reply)
            row.reply = None
        else:
            row.reply.finish("context")
