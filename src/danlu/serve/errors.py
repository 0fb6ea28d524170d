"""What a client is told that asks for something it cannot have: a status, and OpenAI's error object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from danlu.errors import DanluError

TYPES = {401: "authentication_error", 429: "rate_limit_error"}
"""An error's type by its status; other statuses below 500 are `invalid_request_error`, the rest `server_error`."""


class ApiError(Exception):
    """Raised anywhere behind a route; `param` is the JSON path of the setting, `code` a word for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the whole answer; who comes too early is told when to come again."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


async def from_api(request: Request, error: Exception) -> Response:
    """Answer with an ApiError as it is."""
    assert isinstance(error, ApiError)
    return error.response()


async def from_danlu(request: Request, error: Exception) -> Response:
    """Answer with what danlu itself refuses: a sampling setting, say, or a lone surrogate."""
    return ApiError(400, str(error), code="invalid_value").response()


async def from_validation(request: Request, error: Exception) -> Response:
    """Answer with the first thing that is wrong in a body."""
    assert isinstance(error, RequestValidationError)
    if "json" not in request.headers.get("content-type", ""):
        return ApiError(415, "send the body as JSON: Content-Type: application/json").response()
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']}", code="invalid_json").response()
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{path or 'the body'}: {message}", param=path or None, code=code).response()


async def from_http(request: Request, error: Exception) -> Response:
    """Answer with a route's own errors: an unknown address, a wrong method, a body that is no text."""
    assert isinstance(error, HTTPException)
    wrong = {
        400: ("the body is no JSON in UTF-8", "invalid_json"),
        404: (f"there is no {request.url.path} here", "unknown_url"),
        405: (f"{request.url.path} does not take {request.method}", "method_not_allowed"),
    }
    message, code = wrong.get(error.status_code, (str(error.detail), None))
    response = ApiError(error.status_code, message, code=code).response()
    response.headers.update(error.headers or {})
    return response


async def from_bug(request: Request, error: Exception) -> Response:
    """Answer where danlu itself is wrong; the server's log has the traceback."""
    return ApiError(500, "the server failed; its log says why", code="internal_error").response()


async def to_nobody(request: Request, error: Exception) -> Response:
    """Answer a client that is gone; only the count sees it."""
    return Response(status_code=499)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ApiError: from_api,
    DanluError: from_danlu,
    RequestValidationError: from_validation,
    HTTPException: from_http,
    ClientDisconnect: to_nobody,
    Exception: from_bug,
}
