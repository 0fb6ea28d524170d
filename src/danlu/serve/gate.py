"""What every request passes before the routes see it: key, limits, the end of the server; and the count of answers."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.serve.errors import ApiError
from danlu.serve.metrics import Metrics

ROUTES = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions")
_FREE = ("/", "/health", "/metrics")
"""What needs no key."""
LARGEST_BODY = 1_000_000
"""Bytes of a request's body."""
_BODY_S = 30.0
"""Seconds that a body may take to come."""


class _Gone(Exception):
    """The client went before its body was whole."""


class Gate:
    """ASGI middleware. `under_way` counts requests until the last byte of their answer is handed to the system.

    Once `closing`, what comes is refused with 503, what is under way goes on.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int, api_key: str | None):
        self.app, self.metrics, self.most = app, metrics, most
        self.closing = False
        self.under_way = 0
        self._wanted = f"Bearer {api_key}".encode() if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        if scope["type"] != "http":
            return
        send = self._counting(scope, send)
        try:
            self._require_welcome(scope)
            body = await _whole_body(scope, receive) if scope["method"] == "POST" else b""
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except _Gone:
            return
        self.under_way += 1
        try:
            await self.app(scope, _replayed(body, receive), send)
        finally:
            self.under_way -= 1

    def _require_welcome(self, scope: Scope) -> None:
        """Raise ApiError where a request comes without the key, too late, or as one too many."""
        if scope["path"] == "/metrics":
            return
        if self._wanted is not None and scope["path"] not in _FREE:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
        if self.closing:
            raise ApiError(503, "the server is shutting down", code="unavailable")
        if scope["method"] == "POST" and self.under_way >= self.most:
            raise ApiError(429, f"{self.under_way:,} requests are open. Come again later", code="rate_limit_exceeded")

    def _counting(self, scope: Scope, send: Send) -> Send:
        """Count an answer by route and status when it begins; unknown addresses are one route."""
        path = "/v1/models" if scope["path"].startswith("/v1/models/") else scope["path"]
        route = path if path in ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests[route, message["status"]] += 1
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            await send(message)

        return counted


async def _whole_body(scope: Scope, receive: Receive) -> bytes:
    """Read a body. Raises ApiError for one that is too large, whether its length was announced or not, or too slow.

    What is left of it the HTTP server throws away.
    """
    too_large = ApiError(413, f"the body may have {LARGEST_BODY:,} bytes at most", code="request_too_large")
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if int(announced) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {_BODY_S:g} s", code="timeout") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body at once, then whatever comes from the client: that it goes, say."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
