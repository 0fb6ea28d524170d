"""Between the event loop and the worker's thread: requests go in, the pieces of their answers come back in order.

Pieces that nobody has fetched yet are joined, so that a slow reader costs no more than its answer's own size, and
holds up nobody: the worker never waits for a reader. The loop is not woken for every token: each time it takes a core
from the worker.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

from danlu.errors import DanluError
from danlu.infer.request import Piece, Request
from danlu.infer.worker import Worker
from danlu.serve.errors import ApiError
from danlu.serve.metrics import Metrics

PAUSE_S = 0.02
"""What was written within so many seconds is handed on at once, unless an answer ends."""


class Desk:
    """Hands requests to the worker, no more than `most` at a time; belongs to one event loop.

    `under_way` counts the answers that were begun or wait, and have not ended.
    """

    def __init__(self, worker: Worker, most: int, metrics: Metrics):
        self.worker, self.most, self.metrics = worker, most, metrics
        self.under_way = 0
        self._come: deque[tuple[Answers, int, Piece]] = deque()
        self._called = False
        self._next_call = 0.0

    def require_room(self, answers: int) -> None:
        """Raise ApiError where so many answers more are too many, now or ever."""
        if answers > self.most:
            message = f"{answers:,} answers at once are more than this server ever takes: {self.most:,}"
            raise ApiError(400, message, param="n", code="invalid_value")
        if self.under_way + answers > self.most:
            message = f"{self.under_way:,} answers are being written or wait already. Come again later"
            raise ApiError(429, message, code="rate_limit_exceeded")

    def take(self, loop: asyncio.AbstractEventLoop, answers: Answers, number: int, piece: Piece) -> None:
        """Take a piece, in the worker's thread; the loop is called once for all that came meanwhile.

        What is kept back goes with the next piece; every answer has a last one, which is never kept back.
        """
        self._come.append((answers, number, piece))
        now = time.monotonic()
        if not self._called and (piece.stopped or (answers.streamed and now >= self._next_call)):
            self._called, self._next_call = True, now + PAUSE_S
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._hand_on)

    def _hand_on(self) -> None:
        self._called = False
        while self._come:
            answers, number, piece = self._come.popleft()
            self.under_way -= bool(piece.stopped)
            self.metrics.completion_tokens += len(piece.tokens)
            answers.put(number, piece)


class Answers:
    """Answers under way: `async with` begins them and, on leaving, cancels those that have not ended.

    Iterating yields (number of the request, piece); it ends when all answers have. Without `streamed` an answer comes
    as one piece. Raises ApiError on entering where too many are under way, and later when the `seconds` are over, or an
    answer fails.
    """

    def __init__(self, desk: Desk, requests: Sequence[Request], seconds: float, streamed: bool):
        self.desk, self.requests, self.streamed = desk, requests, streamed
        self.prompt_tokens = sum(len(request.ids) for request in requests if request.sample == 0)
        self.completion_tokens = 0
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._end = self._begun + seconds
        self._pieces: list[list[Piece]] = [[] for _ in requests]
        self._ready: deque[int] = deque()
        self._numbers: dict[int, int] = {}
        self._due = asyncio.Event()
        """Whether there is something to fetch."""
        self._said = False

    async def __aenter__(self) -> Answers:
        self.desk.require_room(len(self.requests))
        try:
            for number, request in enumerate(self.requests):
                take = partial(self.desk.take, self._loop, self, number)
                self._numbers[number] = self.desk.worker.submit(request, take)
                self.desk.under_way += 1
        except DanluError:
            self._cancel()
            raise
        self.desk.metrics.prompt_tokens += self.prompt_tokens
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._cancel()
        self.desk.metrics.request_seconds.add(self._loop.time() - self._begun)

    def _cancel(self) -> None:
        for submitted in self._numbers.values():
            self.desk.worker.cancel(submitted)

    def put(self, number: int, piece: Piece) -> None:
        """Add a piece to those that nobody has fetched."""
        if piece.tokens and not self._said:
            self._said = True
            self.desk.metrics.first_token_seconds.add(self._loop.time() - self._begun)
        if not self._pieces[number]:
            self._ready.append(number)
        self._pieces[number].append(piece)
        if piece.stopped or self.streamed:
            self._due.set()

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        if not self._numbers:
            raise StopAsyncIteration
        await self._wait()
        number = self._ready.popleft()
        piece = joined(self._pieces[number])
        self._pieces[number] = []
        if not self._ready:
            self._due.clear()
        self.completion_tokens += len(piece.tokens)
        if piece.stopped:
            del self._numbers[number]
        if piece.stopped == "error":
            raise ApiError(500, piece.error, code="internal_error")
        if piece.stopped == "cancelled":
            raise ApiError(503, "the server is shutting down", code="unavailable")
        return number, piece

    async def _wait(self) -> None:
        """Wait until there is something to fetch, or the request's time is over."""
        try:
            if self._loop.time() >= self._end:
                raise TimeoutError
            if not self._due.is_set():
                async with asyncio.timeout_at(self._end):
                    await self._due.wait()
        except TimeoutError:
            raise ApiError(504, "the answer took longer than the server allows", code="timeout") from None

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's counts: a prompt with several answers is counted once; an end mark that was drawn counts."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def joined(pieces: Sequence[Piece]) -> Piece:
    """Make one piece of several of the same answer."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        prompt=tuple(token for piece in pieces for token in piece.prompt),
        stopped=pieces[-1].stopped,
        error=pieces[-1].error,
    )
