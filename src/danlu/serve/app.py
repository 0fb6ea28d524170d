"""The routes, put together: a request is read, handed to the desk, and its answer written whole or as a stream."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from sse_starlette import EventSourceResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.infer.worker import Worker
from danlu.serve.chat import Chat
from danlu.serve.completions import Completion
from danlu.serve.desk import Answers, Desk
from danlu.serve.errors import HANDLERS, ApiError
from danlu.serve.forms import Form, as_json
from danlu.serve.gate import Gate
from danlu.serve.metrics import Metrics
from danlu.serve.schema import Ask, ChatAsk, CompletionAsk
from danlu.serve.served import Served

PAGE = Path(__file__).parent / "page.html"
_PATIENCE_S = 30.0
"""Seconds after which a reader that takes nothing of its stream is left."""
_SLOW_READERS = 256
"""So many answers that have ended may still be on their way to readers."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, how long, for whom. `answers` counts those under way and those that wait."""

    answers: int = 288
    seconds: float = 600.0
    api_key: str | None = None
    origins: Sequence[str] = ()
    """Pages of these origins may call the server from a browser."""


class Stream(EventSourceResponse):
    """An answer as events. The client's going, or its taking nothing for long, cancels what is not written yet."""

    def __init__(self, form: Form, answers: Answers):
        super().__init__(form.events(answers), sep="\n", send_timeout=_PATIENCE_S)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin the answers, and send."""
        with suppress(TimeoutError):
            async with self._answers:
                await super().__call__(scope, receive, send)


class App:
    """The ASGI application, `asgi`, and the gate before it."""

    def __init__(self, worker: Worker, served: Served, limits: Limits):
        self.worker, self.served, self.limits = worker, served, limits
        self.metrics = Metrics()
        self.desk = Desk(worker, limits.answers, self.metrics)
        self.gate = Gate(self._routes(), self.metrics, limits.answers + _SLOW_READERS, limits.api_key)
        self.asgi: ASGIApp = self.gate
        if limits.origins:
            self.asgi = CORSMiddleware(
                self.gate, limits.origins, allow_methods=["GET", "POST"], allow_headers=["*"], max_age=600
            )

    def _routes(self) -> FastAPI:
        api = FastAPI(title="danlu", docs_url=None, redoc_url=None)
        for error_class, handler in HANDLERS.items():
            api.add_exception_handler(error_class, handler)
        for path, route in (("/", page), ("/health", self.health)):
            api.api_route(path, methods=["GET", "HEAD"])(route)
        api.get("/metrics")(self.tell_metrics)
        api.get("/v1/models")(self.models)
        api.get("/v1/models/{name:path}")(self.model)
        api.post("/v1/chat/completions")(self.chat)
        api.post("/v1/completions")(self.complete)
        return api

    async def health(self) -> dict[str, str]:
        """Say that the server takes requests."""
        return {"status": "ok"}

    async def tell_metrics(self) -> PlainTextResponse:
        """Tell Prometheus what was counted."""
        text = self.metrics.text(self.worker.running, self.worker.waiting)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self) -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [self.served.card()]}

    async def model(self, name: str) -> dict[str, Any]:
        """Describe a model."""
        self.served.require_name(name)
        return self.served.card()

    async def chat(self, ask: ChatAsk, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(lambda: Chat(ask, self.served), ask, request)

    async def complete(self, ask: CompletionAsk, request: Request) -> Response:
        """Continue texts."""
        return await self._answer(lambda: Completion(ask, self.served), ask, request)

    async def _answer(self, read: Any, ask: Ask, request: Request) -> Response:
        """Read a request in a thread, since long texts take long to encode; then answer it."""
        self.served.require_name(ask.model)
        self.desk.require_room(1)
        form: Form = await asyncio.to_thread(read)
        answers = Answers(self.desk, form.requests, self.limits.seconds, bool(ask.stream))
        if ask.stream:
            return Stream(form, answers)
        async with answers:
            body = await _unless_gone(request, form.whole(answers))
        return Response(as_json(body), media_type="application/json")


async def page() -> Response:
    """Show the page to talk on."""
    if not PAGE.is_file():
        raise ApiError(404, "this installation has no page", code="unknown_url")
    text = PAGE.read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": policy(text), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return HTMLResponse(text, headers=headers)


def policy(html: str) -> str:
    """Return a Content-Security-Policy that lets a page run its own inline scripts, and talk with this server only."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work while the client is there. Raises ClientDisconnect when it goes."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
