"""`POST /v1/completions`: how texts go on, and with `echo` how likely they are themselves."""

from __future__ import annotations

import codecs
from typing import Any

from danlu.infer.request import Piece
from danlu.serve.forms import Form, alternatives_of, logprob_of
from danlu.serve.schema import CompletionAsk
from danlu.serve.served import Prompt, Served

MAX_TOKENS = 16
"""OpenAI's own default for this route."""


class Completion(Form):
    """Prompts and the shape of their continuations; choice p · n + i is the i-th one of prompt p."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, ask: CompletionAsk, served: Served):
        self.ask = ask
        super().__init__(ask, served, [served.text(prompt) for prompt in ask.prompt])
        self._offsets = [_Offsets() for _ in self.requests]
        self._begun = [False] * len(self.requests)

    def _most_tokens(self, prompt: Prompt) -> int:
        asked = MAX_TOKENS if self.ask.max_tokens is None else self.ask.max_tokens
        return min(asked, self.served.context - len(prompt.ids) + 1)

    def _likeliest(self) -> int | None:
        return self.ask.logprobs

    def _scores_prompt(self) -> bool:
        return bool(self.ask.echo and self.ask.logprobs is not None) or self.ask.max_tokens == 0

    def chunk(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return what is new of a text; with `echo` the prompt comes first."""
        prompt = self.prompts[number // self.n]
        first, self._begun[number] = not self._begun[number], True
        return {
            "text": (prompt.text if first and self.ask.echo else "") + piece.text,
            "index": number,
            "logprobs": self._logprobs(number, prompt, piece),
            "finish_reason": self.finish_reason(piece),
        }

    def choice(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return a whole text, which has the same shape."""
        return self.chunk(number, piece)

    def _logprobs(self, number: int, prompt: Prompt, piece: Piece) -> dict[str, Any] | None:
        """Return four lists, one entry a token; where no probability is known (the first of given ids), null."""
        if self.ask.logprobs is None:
            return None
        echoed = piece.prompt[prompt.marks :] if self.ask.echo else ()
        told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in (*echoed, *piece.tokens):
            text, logprob = self.spelled(token.id), logprob_of(token)
            likeliest = {self.spelled(other): p for other, p in alternatives_of(token)}
            told["tokens"].append(text)
            told["token_logprobs"].append(logprob)
            told["top_logprobs"].append(None if logprob is None else {**likeliest, text: logprob})
            told["text_offset"].append(self._offsets[number].add(self.served.tokenizer.token_bytes(token.id)))
        return told


class _Offsets:
    """Where a text's tokens begin, in characters; those that share one begin where it does."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def add(self, piece: bytes) -> int:
        """Return where the next token begins."""
        begin = self._at
        self._at += len(self._decoder.decode(piece))
        return begin
