"""`POST /v1/chat/completions`: the next turn of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.infer.request import Piece, Token
from danlu.serve.forms import Form, alternatives_of, logprob_of
from danlu.serve.schema import ChatAsk
from danlu.serve.served import Prompt, Served


class Chat(Form):
    """A conversation and the shape of its answer. Without `max_tokens` an answer may fill the context."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, ask: ChatAsk, served: Served):
        self.ask = ask
        super().__init__(ask, served, [served.conversation([message.message() for message in ask.messages])])

    def _most_tokens(self, prompt: Prompt) -> int:
        room = self.served.context - len(prompt.ids) + 1
        return min(room, self.ask.max_completion_tokens or self.ask.max_tokens or room)

    def _likeliest(self) -> int | None:
        return (self.ask.top_logprobs or 0) if self.ask.logprobs else None

    def first_chunk(self, number: int) -> dict[str, Any] | None:
        """Say who speaks."""
        return self._delta(number, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return what is new of an answer."""
        delta = {"content": piece.text} if piece.text else {}
        return self._delta(number, delta, self._logprobs(piece.tokens), self.finish_reason(piece))

    def choice(self, number: int, piece: Piece) -> dict[str, Any]:
        """Return a whole answer."""
        return {
            "index": number,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._logprobs(piece.tokens),
            "finish_reason": self.finish_reason(piece),
        }

    @staticmethod
    def _delta(number: int, delta: dict[str, Any], logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.ask.logprobs:
            return None
        return {
            "content": [
                {
                    **self._one(token.id, logprob_of(token)),
                    "top_logprobs": [self._one(*other) for other in alternatives_of(token)],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        raw = self.served.tokenizer.token_bytes(token)
        return {"token": self.spelled(token), "logprob": logprob, "bytes": list(raw)}
