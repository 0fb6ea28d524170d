"""An engine in a thread of its own, for programs that have other things to do: a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

from danlu.errors import DanluError
from danlu.infer.engine import Engine
from danlu.infer.reply import OnPiece, Reply
from danlu.infer.request import Piece, Request


class Worker:
    """Everything here may be called from any thread; pieces are handed on in the worker's own."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._wake = threading.Condition()
        self._orders: list[Callable[[], None]] = []
        self._replies: dict[int, Reply] = {}
        self._numbers = count(1)
        self._submitted = self._running = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="danlu-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Count the requests that are being answered."""
        return self._running

    @property
    def waiting(self) -> int:
        """Count the requests that were submitted and are not being answered yet."""
        return self._submitted - self._running

    def submit(self, request: Request, on_piece: OnPiece) -> int:
        """Take a request and return its number. Raises DataError where its prompt does not fit into the context.

        Raises DanluError where the worker is closed.
        """
        self.engine.check(request)
        number = next(self._numbers)

        def watch(piece: Piece) -> None:
            if piece.stopped:
                self._replies.pop(number, None)
                with self._wake:
                    self._submitted -= 1
            on_piece(piece)

        def order() -> None:
            self._replies[number] = self.engine.submit(request, watch)

        with self._wake:
            if self._closing:
                raise DanluError("the worker is closed")
            self._submitted += 1
            self._order(order)
        return number

    def cancel(self, number: int) -> None:
        """End an answer, if it has not ended; its last piece says `cancelled`."""

        def order() -> None:
            if reply := self._replies.get(number):
                self.engine.cancel(reply)

        with self._wake:
            self._order(order)

    def close(self, finish: bool = True) -> None:
        """Take no more requests, answer those that were taken (or, without `finish`, cancel them), end the thread."""

        def order() -> None:
            for reply in [] if finish else list(self._replies.values()):
                self.engine.cancel(reply)

        with self._wake:
            self._closing = True
            self._order(order)
        self._thread.join()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wake.notify()

    def _run(self) -> None:
        with self.engine:
            while self._obey():
                try:
                    self.engine.step()
                except Exception as error:  # whatever it is, nobody may wait for ever, and the next may go well
                    self.engine.abandon(str(error) or type(error).__name__)
                self._running = self.engine.running

    def _obey(self) -> bool:
        """Do what was ordered; where there is nothing to do, wait; tell whether there is something to do."""
        with self._wake:
            while not self._orders and not self.engine.busy and not self._closing:
                self._wake.wait()
            orders, self._orders = self._orders, []
        for order in orders:
            order()
        return self.engine.busy or not self._closing
