"""Ctrl-C and SIGTERM: the first asks for a stop after the current step, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from danlu import log


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.wanted = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; leave on the second."""
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        log.say(f"{signal.Signals(number).name}: saving after this step (once more leaves at once)")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a StopRequest that SIGINT and SIGTERM set; the old handlers come back at the end."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
