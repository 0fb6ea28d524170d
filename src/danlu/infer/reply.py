"""A request under way: what was drawn, its text as far as it may go out, and what the next draw must know."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import torch
from torch import Tensor

from danlu.infer.request import Piece, Request, Token
from danlu.infer.sampling import History
from danlu.tokenizer import Tokenizer
from danlu.train.devices import seed_for

OnPiece = Callable[[Piece], None]


class Reply:
    """One answer. `read` are the prompt's ids and the new ones; `stopped` says why it ended (see `Piece`)."""

    def __init__(self, request: Request, tokenizer: Tokenizer, vocab_size: int, on_piece: OnPiece):
        self.request, self.tokenizer = request, tokenizer
        self.read = list(request.ids)
        self.tokens = 0
        self.stopped = ""
        self.generator = torch.Generator().manual_seed(seed_for(request.seed, "sample", request.sample))
        self.history = History(request.ids[1:], vocab_size, request.sampling) if request.sampling.looks_back else None
        self.prompt: list[Token] = [Token(request.ids[0])] if request.score_prompt else []
        self._on_piece = on_piece
        self._end_ids = frozenset(tokenizer.end_ids if request.end_ids is None else request.end_ids)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._starts = {stop[:length] for stop in request.stop for length in range(1, len(stop))}

    @property
    def wants_logprobs(self) -> bool:
        """Tell whether tokens are reported with their log-probabilities."""
        return self.request.likeliest is not None

    def take(self, token: Token) -> None:
        """Add a token that was drawn; hand on what may go out; stop where it ends the answer."""
        self.read.append(token.id)
        self.tokens += 1
        if self.history is not None:
            self.history.add(token.id)
        if token.id in self._end_ids:
            return self.finish("eos", token=token)
        self._held += self._bytes.decode(self.tokenizer.token_bytes(token.id))
        if self._cut_at_stop():
            return self.finish("stop", token=token)
        if self.tokens >= self.request.max_new_tokens:
            return self.finish("length", token=token)
        return self._say(self._released(), token)

    def finish(self, stopped: str, error: str = "", token: Token | None = None) -> None:
        """End the answer, once. Bytes that are no whole character yet become U+FFFD."""
        if self.stopped:
            return
        self.stopped = stopped
        if stopped != "stop":
            self._held += self._bytes.decode(b"", final=True)
            if self._cut_at_stop():
                self.stopped = "stop"
        text, self._held = self._held, ""
        self._say(text, token, error)

    def score(self, ids: list[int], logits_TV: Tensor) -> None:
        """Note how likely the prompt's next ids are, each after what its row of logits has read."""
        self.prompt += [_scored(i, row_V, self.request.likeliest or 0) for i, row_V in zip(ids, logits_TV, strict=True)]

    def scored(self, token_id: int, logits_V: Tensor) -> Token:
        """Return a drawn token, with its log-probability where it is wanted."""
        if self.request.likeliest is None:
            return Token(token_id)
        return _scored(token_id, logits_V, self.request.likeliest)

    def _say(self, text: str, token: Token | None, error: str = "") -> None:
        prompt, self.prompt = self.prompt, []
        tokens = () if token is None else (token,)
        self._on_piece(Piece(text, tokens, tuple(prompt), self.stopped, error))

    def _cut_at_stop(self) -> bool:
        """End the held text before the first stop string in it."""
        found = [at for at in map(self._held.find, self.request.stop) if at >= 0]
        if found:
            self._held = self._held[: min(found)]
        return bool(found)

    def _released(self) -> str:
        """Take from the held text what begins no stop string."""
        longest = min(len(self._held), max(map(len, self._starts), default=0))
        kept = next((n for n in range(longest, 0, -1) if self._held[-n:] in self._starts), 0)
        text, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return text


def _scored(token_id: int, logits_V: Tensor, likeliest: int) -> Token:
    logprobs_V = logits_V.log_softmax(-1)
    best, ids = logprobs_V.topk(min(likeliest, len(logprobs_V)))
    pairs = tuple(zip(ids.tolist(), best.tolist(), strict=True))
    return Token(token_id, float(logprobs_V[token_id]), pairs)
