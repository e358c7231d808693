"""ASGI middleware that passes only the requests of the demo's own page.

Every web site that is open in the browser can send requests to a server on this machine. Therefore a request must carry
a known host name (see :mod:`vplface.demo.hosts`), and a POST must come from the page itself. Only the routes that the
page uses are allowed; gradio's route that serves files is not. An event may refer to uploaded files only: gradio would
copy any other file, and download any URL.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vplface.demo.hosts import parse_authority
from vplface.demo.uploads import MAX_PICTURE_BYTES, MAX_PICTURES
from vplface.errors import DataError
from vplface.reading import parse_json, read_bytes
from vplface.run_folder import ModelFolder, RunFolder

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

REPORT = "/report"

_UPLOAD = "/gradio_api/upload"
_EVENT = "/gradio_api/run/"
_READABLE_PATHS = {
    "/", "/config", "/theme.css", "/gradio_api/theme.css", "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/favicon.ico", "/manifest.json",
}  # fmt: skip
_READABLE_PREFIXES = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_QUERY_PREFIX = "/gradio_api/"
"""Query strings are passed on below this path only; elsewhere gradio would load stored states from them."""
_MAX_EVENT_BYTES = 1_000_000
_MAX_UPLOAD_BYTES = MAX_PICTURE_BYTES * MAX_PICTURES + 1_000_000
"""Size limits of request bodies, in bytes."""
_MAX_LENGTH_DIGITS = 12
_BODY_TIMEOUT = 300.0
"""Seconds within which a request body must arrive."""

_PAGE_CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""Forbids the browser to fetch anything from another server. Gradio's own script needs eval."""

_REPORT_CSP = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)


@dataclass(frozen=True)
class AllowlistMiddleware:
    """ASGI application that filters the requests to another one.

    Args:
        app: the application that serves the page.
        hosts: accepted host names, as :func:`vplface.demo.hosts.parse_authority` returns them.
        report: file served as the report; None if there is none.
        uploads: folder of the uploaded files.
    """

    app: App
    hosts: Container[str]
    report: Path | None
    uploads: Path

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request: answer it, refuse it or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refused(scope)
        receive = _limit_body(receive, _max_body_bytes(scope["path"]) or 0)
        if refusal is not None:
            await _respond(send, *refusal)
        elif scope["path"] == REPORT:
            await self._send_report(send)
        elif scope["path"].startswith(_EVENT):
            event = _validated_event(await _read_body(receive), self.uploads)
            if event is None:
                await _respond(send, 400, "invalid event, or it refers to a file that was not uploaded here")
            else:
                await self.app(scope, _replay(event, receive), _with_csp(send, _PAGE_CSP))
        else:
            if not scope["path"].startswith(_QUERY_PREFIX):
                scope = {**scope, "query_string": b""}
            await self.app(scope, receive, _with_csp(send, _PAGE_CSP))

    def _refused(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason of a refusal; None for an allowed request."""
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        names = [key.lower() for key, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in (b"host", b"origin", b"content-length")):
            return 400, "duplicate header"
        path, host, origin = scope["path"], parse_authority(headers.get("host", "")), headers.get("origin")
        if host is None or host[0] not in self.hosts:
            return 403, "unknown host name; add it with vplface demo --name HOST"
        if origin is not None and _parse_origin(origin) != host:
            return 403, "requests from other sites are not allowed"
        if scope["method"] in ("GET", "HEAD"):
            known = path in _READABLE_PATHS or path == REPORT or path.startswith(_READABLE_PREFIXES)
            return None if known and ".." not in path else (404, "not found")
        longest = _max_body_bytes(path)
        if scope["method"] != "POST" or longest is None:
            return 404, "not found"
        if origin is None:
            return 403, "requests without an origin may not change anything"
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()) or "transfer-encoding" in headers:
            return 411, "Content-Length is missing or invalid"
        return (413, "request body too large") if len(length) > _MAX_LENGTH_DIGITS or int(length) > longest else None

    async def _send_report(self, send: Send) -> None:
        try:
            page = None if self.report is None else read_bytes(self.report)
        except DataError:
            page = None
        if page is None:
            await _respond(send, 404, "there is no report")
        else:
            await _respond(_with_csp(send, _REPORT_CSP), 200, page, "text/html; charset=utf-8")


def _max_body_bytes(path: str) -> int | None:
    """Largest body that may be posted to a path, in bytes; None if the path takes no POST."""
    if path == _UPLOAD:
        return _MAX_UPLOAD_BYTES
    return _MAX_EVENT_BYTES if path.startswith(_EVENT) and path.removeprefix(_EVENT).isidentifier() else None


def _parse_origin(origin: str) -> tuple[str, str] | None:
    scheme, _, rest = origin.partition("://")
    return parse_authority(rest) if scheme in ("http", "https") else None


def _limit_body(receive: Receive, max_bytes: int) -> Receive:
    """Wrap ``receive``: a body that exceeds ``max_bytes`` or the time limit reads as a disconnect."""
    left, deadline, complete = max_bytes, 0.0, False

    async def receiving() -> Message:
        nonlocal left, deadline, complete
        if complete:
            return await receive()
        deadline = deadline or time.monotonic() + _BODY_TIMEOUT
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except TimeoutError:
            return {"type": "http.disconnect"}
        left -= len(message.get("body", b""))
        complete = message["type"] == "http.request" and not message.get("more_body", False)
        return message if left >= 0 else {"type": "http.disconnect"}

    return receiving


async def _read_body(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a body that was read already, then continues with the original."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return pending.pop() if pending else await receive()

    return receiving


def _validated_event(body: bytes, uploads: Path) -> bytes | None:
    """The event in a body, re-serialised so that gradio cannot parse it differently.

    None if the body is not JSON, or if a ``path`` at any depth is not inside the folder of uploads.
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
    except (
        DataError,
        ValueError,
        TypeError,
        OSError,
        RecursionError,
    ):  # not JSON, NUL byte, link loop, too deep
        return None


def _with_csp(send: Send, policy: str) -> Send:
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


async def _respond(send: Send, status: int, body: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
    data = body.encode() if isinstance(body, str) else body
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(data)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"cache-control", b"no-store")]}
    )
    await send({"type": "http.response.body", "body": data})


def report_of(model: Path) -> Path | None:
    """Path of the training report in a model's run folder; None if there is none."""
    run = run_folder_of(model)
    if run is None:
        return None
    return run.report if run.report.is_file() and run.report.resolve().parent == run.path.resolve() else None


def run_folder_of(model: Path) -> RunFolder | None:
    """Run folder of a model; None if the model is a single file."""
    return ModelFolder(model).run if model.is_dir() else None
