"""What stands between a browser and the page's server: only what the page needs gets through, and nothing leaves it.

A server on this machine can be reached by every web site that is open in the browser, too. So a request must name this
server (or a site could pass its own name off as it, see :mod:`vplface.demo.hosts`), and one that changes something must
come from its own page. Of the server's many routes those that the page uses are let through; the one that gives out
files is not among them. And an event may name no file but an upload: of any other, on this disk or at an address,
gradio would make itself a copy.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vplface.demo.hosts import authority
from vplface.demo.uploads import MOST_BYTES, MOST_PICTURES
from vplface.errors import DataError
from vplface.reading import parse_json, read_bytes

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

REPORT = "/report"

_UPLOAD = "/gradio_api/upload"
_EVENT = "/gradio_api/run/"
_READ = {
    "/", "/config", "/theme.css", "/gradio_api/theme.css", "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/favicon.ico", "/manifest.json",
}  # fmt: skip
_READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_QUERIED = "/gradio_api/"
"""Below this a question mark means something; elsewhere gradio would load stored states by it."""
_LONGEST_EVENT = 1_000_000
_LONGEST_UPLOAD = MOST_BYTES * MOST_PICTURES + 1_000_000
"""Bytes of a body."""
_DIGITS = 12
_PATIENCE = 300.0
"""Seconds that a body may take to arrive."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""A browser fetches nothing for the page from anywhere else, whatever it asks for; gradio's own script needs eval."""

_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)


@dataclass(frozen=True)
class Gate:
    """An ASGI application around another.

    Args:
        app: what serves the page.
        hosts: names under which this server may be asked for, as :func:`vplface.demo.hosts.authority` gives them.
        report: the file that is given out as the report; None if there is none.
        uploads: the folder in which uploads lie.
    """

    app: App
    hosts: Container[str]
    report: Path | None
    uploads: Path

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refused = self._refused(scope)
        receive = _bounded(receive, _longest(scope["path"]) or 0)
        if refused is not None:
            await _answer(send, *refused)
        elif scope["path"] == REPORT:
            await self._give_report(send)
        elif scope["path"].startswith(_EVENT):
            event = _checked(await _whole(receive), self.uploads)
            if event is None:
                await _answer(send, 400, "this is no event, or it names a file that was not uploaded here")
            else:
                await self.app(scope, _again(event, receive), _with_policy(send, _POLICY))
        else:
            if not scope["path"].startswith(_QUERIED):
                scope = {**scope, "query_string": b""}
            await self.app(scope, receive, _with_policy(send, _POLICY))

    def _refused(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason; None for what is let through."""
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        names = [key.lower() for key, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in (b"host", b"origin", b"content-length")):
            return 400, "a header is there twice"
        path, host, origin = scope["path"], authority(headers.get("host", "")), headers.get("origin")
        if host is None or host[0] not in self.hosts:
            return 403, "this server does not go by that name; vplface demo takes further ones as --name"
        if origin is not None and _of_origin(origin) != host:
            return 403, "only this server's own page may ask"
        if scope["method"] in ("GET", "HEAD"):
            known = path in _READ or path == REPORT or path.startswith(_READ_BELOW)
            return None if known and ".." not in path else (404, "not found")
        longest = _longest(path)
        if scope["method"] != "POST" or longest is None:
            return 404, "not found"
        if origin is None:
            return 403, "only this server's own page may do that"
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()) or "transfer-encoding" in headers:
            return 411, "the length of the body must be given"
        return (413, "too large") if len(length) > _DIGITS or int(length) > longest else None

    async def _give_report(self, send: Send) -> None:
        try:
            page = None if self.report is None else read_bytes(self.report)
        except DataError:
            page = None
        if page is None:
            await _answer(send, 404, "there is no report")
        else:
            await _answer(_with_policy(send, _REPORT_POLICY), 200, page, "text/html; charset=utf-8")


def _longest(path: str) -> int | None:
    """The longest body that may be posted to a path, in bytes; None if nothing may."""
    if path == _UPLOAD:
        return _LONGEST_UPLOAD
    return _LONGEST_EVENT if path.startswith(_EVENT) and path.removeprefix(_EVENT).isidentifier() else None


def _of_origin(origin: str) -> tuple[str, str] | None:
    scheme, _, rest = origin.partition("://")
    return authority(rest) if scheme in ("http", "https") else None


def _bounded(receive: Receive, most: int) -> Receive:
    """The same, but the visitor is taken to be gone once a body is longer than ``most`` bytes or takes too long."""
    left, deadline, whole = most, 0.0, False

    async def receiving() -> Message:
        nonlocal left, deadline, whole
        if whole:
            return await receive()
        deadline = deadline or time.monotonic() + _PATIENCE
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except TimeoutError:
            return {"type": "http.disconnect"}
        left -= len(message.get("body", b""))
        whole = message["type"] == "http.request" and not message.get("more_body", False)
        return message if left >= 0 else {"type": "http.disconnect"}

    return receiving


async def _whole(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, and then what else comes."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return pending.pop() if pending else await receive()

    return receiving


def _checked(body: bytes, uploads: Path) -> bytes | None:
    """The event in a body, written anew so that no two readers differ over it.

    None if it is none, or if a ``path`` in it, at whatever depth, does not lie below the folder of uploads.
    """
    root = uploads.resolve()
    try:
        event = parse_json(body, "the event")
        pending = [event]
        while pending:
            value = pending.pop()
            if isinstance(value, dict):
                if "path" in value and root not in Path(value["path"]).resolve().parents:
                    return None
                pending += value.values()
            elif isinstance(value, list):
                pending += value
        return json.dumps(event).encode()
    except (DataError, ValueError, TypeError, OSError, RecursionError):  # no JSON, no text, a NUL, a loop, too deep
        return None


def _with_policy(send: Send, policy: str) -> Send:
    added = [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, body: str | bytes, kind: str = "text/plain; charset=utf-8") -> None:
    data = body.encode() if isinstance(body, str) else body
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(data)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"cache-control", b"no-store")]}
    )
    await send({"type": "http.response.body", "body": data})


def report_of(model: Path) -> Path | None:
    """The report of the run that a model belongs to, in the run's own folder; None if there is none."""
    run = run_of(model)
    if run is None:
        return None
    report = run / "report.html"
    return report if report.is_file() and report.resolve().parent == run.resolve() else None


def run_of(model: Path) -> Path | None:
    """The folder of the run that a model belongs to; None for a file."""
    if not model.is_dir():
        return None
    return model.parent if model.name == "best" else model
