"""Engines: who does the work of a step, part by part, and hands back its results in the order of the parts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from danlu.errors import DanluError

KILLED = (
    "a worker was killed, most likely for want of memory. Run the command again, with fewer --workers: it goes on "
    "where it was"
)
_FIRST_ITEMS = 2
"""Done before other processes are started: for so little it does not pay."""
EngineName = Literal["local", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Does the same to many things; `map` takes items only as workers become free, so that few lie in memory."""

    @property
    def workers(self) -> int:
        """How many items are worked on at once."""
        ...

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Yield the results in the order of the items. What `function` raises is raised here."""
        ...


def in_order(
    start: Callable[[Item], Any], finish: Callable[[Any], Result], items: Iterable[Item], most: int
) -> Generator[Result]:
    """Start at most so many items at once; yield what finishing each gives, in their order."""
    begun: deque[Any] = deque()
    for item in items:
        begun.append(start(item))
        if len(begun) >= most:
            yield finish(begun.popleft())
    while begun:
        yield finish(begun.popleft())


@dataclass(frozen=True, slots=True)
class Local:
    """Processes of this machine; with one worker this process alone.

    They are spawned, not forked, and end when this process does, however it ends: each waits on a pipe whose other end
    is held here alone. Until the first of them is up, which takes as long as sifting a megabyte, this process works.
    """

    workers: int

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Yield the results in order. Raises DanluError where the system killed a worker."""
        if self.workers == 1:
            yield from map(function, items)
            return
        with _pool(self.workers) as pool:
            hands = _Hands(pool, function, self.workers)
            try:
                yield from in_order(hands.take, lambda future: future.result(), items, self.workers + 2)
            except BrokenProcessPool:
                raise DanluError(KILLED) from None


class _Hands:
    """Who takes the next item: this process, until processes are up that it started after the first few items."""

    def __init__(self, pool: ProcessPoolExecutor, function: Callable[[Any], Any], workers: int):
        self.pool, self.function, self.workers = pool, function, workers
        self.taken, self.awake = 0, list[Future[Any]]()

    def take(self, item: Any) -> Future[Any]:
        """Return what will hold the result. Raises BrokenProcessPool where the system killed a process."""
        if any(future.done() for future in self.awake):
            return self._submit(self.function, item)
        if self.taken == _FIRST_ITEMS:
            self.awake = [self._submit(_wake, self.function) for _ in range(self.workers - 1)]
        self.taken += 1
        done = Future[Any]()
        done.set_result(self.function(item))
        return done

    def _submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        with _without_signals():
            return self.pool.submit(function, item)


def _wake(function: Callable[[Any], Any]) -> int:
    """Answer once this process has imported what a function needs."""
    return os.getpid()


@contextmanager
def _pool(workers: int) -> Generator[ProcessPoolExecutor]:
    """Yield a pool; when the block is left, what its workers still do (get ready, say) is not waited for."""
    theirs, ours = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_watch, initargs=(theirs,))
    try:
        yield pool
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _watch(pipe: Any) -> None:
    """End this process as soon as the other end of a pipe is closed."""

    def wait() -> None:
        pipe.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _without_signals() -> Generator[None]:
    """Hold back what asks to end; processes started meanwhile never see it, for they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def engine_of(name: EngineName, workers: int) -> Generator[Engine]:
    """Yield an engine. Raises ConfigError where a package is missing."""
    if name == "ray":
        from danlu.data.cleaning.cluster import cluster

        with cluster(workers) as engine:
            yield engine
    else:
        yield Local(workers)
