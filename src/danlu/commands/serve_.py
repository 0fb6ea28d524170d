"""`danlu serve`: a model over HTTP, by OpenAI's protocol, with a page to talk on."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from danlu import log
from danlu.commands import DeviceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError, DanluError

if TYPE_CHECKING:
    from danlu.serve.app import App

KEY_VARIABLE = "DANLU_API_KEY"
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")


@dataclass(frozen=True)
class Options(DeviceOptions):
    """Serve a checkpoint to OpenAI's clients and, at /, to a browser. Ctrl-C ends it when all answers are delivered."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    host: str = "127.0.0.1"
    """address to listen at; 0.0.0.0 lets other machines in"""
    port: int = 8000
    """port; 0 takes any that is free"""
    name: str | None = None
    """what clients call the model; otherwise the folder's name"""
    api_key: str | None = None
    """what clients must present; also read from the variable DANLU_API_KEY, which no list of processes shows"""
    slots: int = 32
    """answers written at once"""
    max_queue: int = 256
    """answers that may wait; further requests are told to come again (429)"""
    context: int | None = None
    """most tokens of a prompt and its answer, to save memory; otherwise the model's context"""
    timeout: float = 600.0
    """seconds that a request may take"""
    allow_origin: tuple[str, ...] = ()
    """origins whose pages may call the server from a browser, such as http://localhost:3000"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, take the address, load, serve, tell what was served."""
    options = parse_flags(Options, argv, "danlu serve")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    _check(options)
    try:
        from danlu.serve.server import Server, address_of, bind
    except ModuleNotFoundError as error:
        raise DanluError(f"{error.name} is not installed. Serving needs: pip install 'danlu[serve]'") from None
    started = time.monotonic()
    with bind(options.host, options.port) as address:
        with ThreadPoolExecutor(1) as passing:  # see _app
            app = passing.submit(_app, folder, options).result()
        url = address_of(address)
        log.say(f"serving {app.served.name} in {app.served.precision} at {url} (API: {url}/v1)")
        try:
            Server(app).run(sockets=[address])
        finally:
            app.worker.close(finish=False)
    result = {
        "requests": app.metrics.answered,
        "prompt_tokens": app.metrics.prompt_tokens,
        "completion_tokens": app.metrics.completion_tokens,
        "seconds": time.monotonic() - started,
    }
    text = "answered {requests:,} requests, {prompt_tokens:,} tokens read, {completion_tokens:,} written"
    return finish(result, text.format(**result), options.json)


def _check(options: Options) -> None:
    """Raise ConfigError for settings that make no sense; say what is risky."""
    wrong = {
        "port": (0 <= options.port < 65536, "between 0 and 65535"),
        "slots": (1 <= options.slots <= 1024, "between 1 and 1024"),
        "max-queue": (0 <= options.max_queue <= 100_000, "between 0 and 100,000"),
        "context": (options.context is None or options.context >= 2, "2 or more"),
        "timeout": (0 < options.timeout < float("inf"), "more than 0"),
        "name": (options.name is None or bool(options.name.strip()), "a name"),
        "allow-origin": (all(map(_ORIGIN.fullmatch, options.allow_origin)), "like http://localhost:3000, or *"),
    }
    for name, (fine, wanted) in wrong.items():
        if not fine:
            raise ConfigError(f"--{name} {getattr(options, name.replace('-', '_'))}: must be {wanted}")
    if options.host not in ("127.0.0.1", "localhost", "::1") and _key(options) is None:
        log.say(f"note: at {options.host} other machines may use the model, and no --api-key is asked for")


def _key(options: Options) -> str | None:
    key = options.api_key if options.api_key is not None else os.environ.get(KEY_VARIABLE)
    if key is not None and (not key.strip() or not key.isascii()):
        raise ConfigError(f"--api-key (or {KEY_VARIABLE}): must be some ASCII characters")
    return key


def _app(folder: Path, options: Options) -> App:
    """Load the model, and put an engine, a worker and the routes around it; call it in a thread that ends.

    A thread that has computed in parallel keeps the threads that helped it. While two threads keep some, GNU's OpenMP
    has them sleep rather than spin between two operations: then the worker writes 1.7 times more slowly.
    """
    from danlu.checkpoint import generation_settings
    from danlu.infer.engine import Engine
    from danlu.infer.worker import Worker
    from danlu.serve.app import App, Limits
    from danlu.serve.served import Served

    model, tokenizer = options.load(folder)
    if options.context is not None and options.context > model.context:
        raise ConfigError(f"--context {options.context:,}: must be at most the model's, {model.context:,}")
    engine = Engine(model, tokenizer, options.slots, options.context)
    name = options.name or folder.absolute().name
    served = Served(name, engine, generation_settings(folder))
    if served.template is None:
        log.say(f"note: {folder} was not taught to answer: a conversation is put to it as plain lines (danlu finetune)")
    limits = Limits(options.slots + options.max_queue, options.timeout, _key(options), options.allow_origin)
    return App(Worker(engine), served, limits)
