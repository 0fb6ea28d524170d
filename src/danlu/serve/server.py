"""uvicorn, told to end well: the first signal refuses what is new and waits for what is under way."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from danlu import log
from danlu.errors import ConfigError
from danlu.serve.app import App

_IDLE_S = 60
"""Seconds after which a connection that asks nothing is closed."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before the model is loaded. Raises ConfigError where that is not possible.

    It is not listened at yet, so that who comes too early is refused rather than kept waiting.
    """
    with ExitStack() as stack:
        stack.enter_context(_clear_errors(host, port))
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = stack.enter_context(socket.socket(family, kind, protocol))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        stack.pop_all()
    return found


@contextmanager
def _clear_errors(host: str, port: int) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use. Name another: --port") from None
        raise ConfigError(f"{host}, port {port}: cannot be taken ({error.strerror or error})") from None


def address_of(bound: socket.socket) -> str:
    """Return where a socket is found, as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves an App until a signal, or `stop()`; ends when every answer under way is delivered.

    A second signal raises KeyboardInterrupt at once.
    """

    def __init__(self, app: App):
        self.gate = app.gate
        super().__init__(
            uvicorn.Config(
                app.asgi,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_S,
                backlog=1024,
            )
        )

    def stop(self) -> None:
        """Refuse what is new, end after what is under way; may be called from any thread."""
        self.gate.closing = True

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether it is time to leave."""
        return await super().on_tick(counter) or (self.gate.closing and not self.gate.under_way)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGINT and SIGTERM while serving; uvicorn's own way ends streams in the middle."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; leave at once at the second."""
        if self.gate.closing:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would show where each answer was cut
            raise KeyboardInterrupt
        self.stop()
        log.say(f"{signal.Signals(sig).name}: finishing {self.gate.under_way} requests (once more leaves at once)")
