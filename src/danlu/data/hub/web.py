"""Bytes over HTTP: answers that never hang for ever, retried with longer and longer waits, files gone on with.

Nothing here knows a hub. A file grows in a part that a cut, Ctrl-C or a kill leaves behind; the next attempt asks
for what is missing (RFC 9110, section 14, range requests). The token goes to the hub's own hosts only.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from danlu import log, storage
from danlu.errors import DataError

ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
"""Longest silence of a server, while connecting and between two pieces of an answer."""
STALL_SECONDS, STALL_BYTES = 60.0, 1 << 16
"""An answer that brings fewer bytes in so many seconds counts as cut."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 300.0
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_CHUNK, _PROGRESS = 1 << 18, 1 << 20
_PRIVATE = ("Authorization", "Cookie")
Answer = TypeVar("Answer")


class Refused(DataError):
    """A server's refusal: its status, and its headers, which may say why."""

    def __init__(self, message: str, status: int, headers: Message):
        super().__init__(message)
        self.status, self.headers = status, headers


class Unreachable(DataError):
    """A server that did not answer, or not to the end, however often it was asked."""


class Cut(OSError):
    """An answer that ended before its end; it is asked for again."""


@dataclass
class Web:
    """One hub's web: its own hosts, what is sent to those alone, and what tells the user of waits."""

    hosts: frozenset[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    mirror: str = ""
    """The environment variable that names another endpoint."""
    say: Callable[[str], None] = log.say

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(
            _Redirects(self.hosts), urllib.request.HTTPSHandler(context=_certificates())
        )

    def json(self, url: str) -> tuple[Any, Message]:
        """Return what an address answers, and its headers. Raises Refused, Unreachable, or DataError for no JSON."""
        raw, headers = self._persist(url, lambda: self._whole(url))
        try:
            return json.loads(raw), headers
        except ValueError:
            raise DataError(f"{url}: answers something else than a hub does. Check {self.mirror}") from None

    def download(self, url: str, part: Path, total: int, moved: Callable[[int], None]) -> None:
        """Append to `part` until it holds `total` bytes; `moved` is told how many it holds.

        Raises Refused, Unreachable, DataError where the server holds a file of another length, OutputError for a
        full disk. In all but the third case what has come stays, for the next attempt.
        """
        self._persist(url, lambda: self._append(url, part, total, moved), lambda: _length(part))

    def _persist(self, url: str, act: Callable[[], Answer], have: Callable[[], int] = lambda: 0) -> Answer:
        """Act until it succeeds, waiting longer each time; a megabyte of progress starts the count anew."""
        failures, mark = 0, have()
        while True:
            try:
                return act()
            except urllib.error.HTTPError as error:
                with error:
                    refusal = Refused(f"{url}: refuses with status {error.code}", error.code, error.headers)
                if error.code not in _TRY_AGAIN:
                    raise refusal from None
                why, wait = f"status {error.code}", _asked_to_wait(error.headers)
            except (OSError, http.client.HTTPException) as error:
                why, wait = _reason(error), None
            if have() - mark >= _PROGRESS:
                failures, mark = 0, have()
            failures += 1
            wait = FIRST_WAIT_SECONDS * 2 ** (failures - 1) if wait is None else wait
            if failures >= ATTEMPTS or wait > LONGEST_WAIT_SECONDS:
                asks = f", and asks to wait {wait:,.0f} s" if wait > LONGEST_WAIT_SECONDS else ""
                raise Unreachable(
                    f"{_host(url)}: {why} ({failures} attempts){asks}. "
                    f"Try again later, or name a mirror in {self.mirror}"
                )
            self.say(f"{_host(url)}: {why}; trying again in {wait:.0f} s")
            time.sleep(wait)

    def _open(self, url: str, **more: str) -> http.client.HTTPResponse:
        headers = {"User-Agent": "danlu", "Accept-Encoding": "identity", **self.headers, **more}
        return self._opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)

    def _whole(self, url: str) -> tuple[bytes, Message]:
        with self._open(url) as answer:
            raw = b"".join(_chunks(answer))
            announced = answer.headers.get("Content-Length")
            if announced is not None and int(announced) != len(raw):
                raise Cut(f"ended after {len(raw):,} of {int(announced):,} bytes")
            return raw, answer.headers

    def _append(self, url: str, part: Path, total: int, moved: Callable[[int], None]) -> None:
        with storage.clear_errors(part):
            file = part.open("ab")
        with file:
            have = file.tell()
            if have > total:
                have = file.truncate(0)
            moved(have)
            if have == total:
                return
            with self._continued(url, have) as answer:
                start, announced = _range(answer)
                if announced not in (None, total):
                    part.unlink()
                    raise DataError(
                        f"{url}: holds {announced:,} bytes where the hub lists {total:,}. "
                        f"Is a proxy in between, or the mirror out of date? Check {self.mirror}, then try again"
                    )
                if start != have:
                    have = file.truncate(0)
                    if start:
                        raise Cut(f"answers from byte {start:,} on")
                for chunk in _chunks(answer):
                    with storage.clear_errors(part):
                        file.write(chunk[: total - have])
                    have += len(chunk)
                    moved(min(have, total))
            with storage.clear_errors(part):
                file.flush()
        if have > total:
            part.unlink()
            raise DataError(f"{url}: sends more than the {total:,} bytes that the hub lists. Check {self.mirror}")
        if have < total:
            raise Cut(f"cut after {have:,} of {total:,} bytes")

    def _continued(self, url: str, have: int) -> http.client.HTTPResponse:
        """Ask for the bytes after the first `have`, or for all, where a server cannot do that."""
        if not have:
            return self._open(url)
        try:
            return self._open(url, Range=f"bytes={have}-")
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            error.close()
            return self._open(url)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; what is private stays with the hub's own hosts."""

    def __init__(self, own: frozenset[str]):
        self._own = own

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        was, now = urlsplit(req.full_url), urlsplit(newurl)
        weaker = was.scheme == "https" and now.scheme != "https"
        if made is not None and (now.netloc not in self._own or weaker):
            for header in _PRIVATE:
                made.remove_header(header)
        return made


def _certificates() -> ssl.SSLContext:
    """Trust what the system trusts and, where it is installed, certifi's list: some Pythons find no other."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what comes as it comes. Raises Cut where it is so slow that it might as well stand still."""
    since, count = time.monotonic(), 0
    while chunk := answer.read1(_CHUNK):
        yield chunk
        count += len(chunk)
        if time.monotonic() - since > STALL_SECONDS:
            if count < STALL_BYTES:
                raise Cut(f"sent only {count:,} bytes in {STALL_SECONDS:g} s")
            since, count = time.monotonic(), 0


def _range(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return where an answer begins, and how long the whole file is, if it says."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and match:
        return int(match[1]), None if match[2] == "*" else int(match[2])
    announced = answer.headers.get("Content-Length")
    return 0, None if announced is None else int(announced)


def _asked_to_wait(headers: Message) -> float | None:
    """Return the seconds that a server asks for: `Retry-After` (RFC 9110) or Hugging Face's `RateLimit: …;t=55`."""
    asked = headers.get("Retry-After", "").strip()
    limit = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    if asked.isdigit():
        return float(asked)
    if asked:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            return None
    return float(limit[1]) if limit else None


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"is silent for {TIMEOUT_SECONDS:g} s"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
