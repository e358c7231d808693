"""What stands between a browser and the page's server: only what the page needs gets through, and nothing leaves it.

A server on this machine can be reached by every web site that is open in the browser, too. So a request must name this
server (or a site could pass its own name off as it), and one that changes something must come from its own page. Of the
server's many routes those that the page uses are let through; the one that gives out files is not among them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from vplface.demo.uploads import MOST_BYTES, MOST_PICTURES

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

REPORT = "/report"

_UPLOAD = "/gradio_api/upload"
_READ = {
    "/", "/config", "/theme.css", "/gradio_api/theme.css", "/gradio_api/queue/data", "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/favicon.ico", "/manifest.json",
}  # fmt: skip
_READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_WRITE = {"/gradio_api/queue/join": 1_000_000, _UPLOAD: MOST_BYTES * MOST_PICTURES + 1_000_000}
"""{what may be posted to: the longest body, in bytes}."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""A browser fetches nothing for the page from anywhere else, whatever it asks for; gradio's own script needs eval."""

_REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
_REPORT_POLICY += "script-src 'unsafe-inline'; frame-ancestors 'self'"


@dataclass(frozen=True)
class Gate:
    """An ASGI application around another.

    Args:
        app: what serves the page.
        hosts: names under which this server may be asked for, without a port; None for any.
        report: the file that is given out as the report; None if there is none.
    """

    app: App
    hosts: Collection[str] | None
    report: Path | None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refused = self._refused(scope)
        if refused is not None:
            await _answer(send, *refused)
        elif scope["path"] == REPORT:
            await self._give_report(send)
        else:
            await self.app(scope, receive, _with_policy(send, _POLICY))

    def _refused(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason; None for what is let through."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host, path = headers.get("host", ""), scope["path"]
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            return 403, "this server does not go by that name"
        if scope["method"] in ("GET", "HEAD"):
            known = path in _READ or path == REPORT or path.startswith(_READ_BELOW)
            return None if known and ".." not in path else (404, "not found")
        if scope["method"] != "POST" or path not in _WRITE:
            return 404, "not found"
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc != host:
            return 403, "only this server's own page may do that"
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "the length of the body must be given"
        return (413, "too large") if int(length) > _WRITE[path] else None

    async def _give_report(self, send: Send) -> None:
        try:
            page = None if self.report is None else self.report.read_bytes()
        except OSError:
            page = None
        if page is None:
            await _answer(send, 404, "there is no report")
        else:
            await _answer(_with_policy(send, _REPORT_POLICY), 200, page, "text/html; charset=utf-8")


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
    run = model.parent if model.name == "best" else model
    report = run / "report.html"
    inside = report.is_file() and report.resolve().parent == run.resolve()
    return report if model.is_dir() and inside else None
