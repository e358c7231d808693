"""Web server of the demo: socket, temporary folder and shutdown."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vplface.demo.hosts import Hosts, numeric_address, parse_authority, parse_host_name
from vplface.demo.middleware import AllowlistMiddleware, report_of
from vplface.demo.page import Page
from vplface.demo.recogniser import Recogniser
from vplface.demo.uploads import MAX_PICTURE_BYTES, periodic_cleanup
from vplface.errors import UsageError, import_extra

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_UPLOADS = "uploads"
_MAX_CONNECTIONS = 100
"""Limit of open connections; a visit needs a few."""
_SHUTDOWN_TIMEOUT = 1
"""Seconds that open connections have to finish at shutdown."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    address = numeric_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def allowed_hosts(host: str, names: Iterable[str] = ()) -> Hosts:
    """Host names accepted by a server that listens on ``host``; all numeric addresses too if others can reach it.

    Args:
        host: address or name to listen on.
        names: further accepted names.

    Raises:
        UsageError: one of ``names`` is not a host name.
    """
    own = parse_authority(f"[{host}]" if ":" in host else host)
    given = [parse_host_name(name) for name in names]
    return Hosts(frozenset([*_LOOPBACK_NAMES, *given, *([own[0]] if own else [])]), numeric=not is_loopback(host))


hosts_of = allowed_hosts
"""Former name, kept until version 0.2."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 chooses a free one.

    Raises:
        UsageError: the port is in use (the message suggests a free one), or this machine does not have the address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except PermissionError as error:
        raise UsageError(
            f"--port {port}: {error.strerror}; ports below 1024 need system privileges, choose a higher one"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {port}: in use by another program; port {_free(host)} is free") from error
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    return listener


@contextmanager
def private_temporary_folder() -> Iterator[Path]:
    """Temporary folder for gradio's uploads, readable by its owner only and deleted at the end.

    Call it before gradio is imported: gradio reads some of its settings from the environment at import.
    """
    with tempfile.TemporaryDirectory(prefix="vplface-demo-", ignore_cleanup_errors=True) as folder:
        uploads = Path(folder, _UPLOADS)
        uploads.mkdir(mode=0o700)
        os.environ |= {
            "GRADIO_TEMP_DIR": str(uploads),
            "GRADIO_SHARE": "False",
            "GRADIO_MCP_SERVER": "False",
            "HF_HUB_OFFLINE": "1",
        }
        yield Path(folder)


def serve(
    recogniser: Recogniser, listener: socket.socket, folder: Path, *, kept: bool, hosts: Container[str], open_: bool
) -> None:
    """Serve the page until interrupted.

    Args:
        recogniser: the model in use.
        listener: socket of :func:`listening_socket`.
        folder: folder of :func:`private_temporary_folder`.
        kept: whether the gallery is kept at the end.
        hosts: accepted host names.
        open_: whether to open the page in a browser.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gradio, uvicorn = import_extra("gradio", "demo"), import_extra("uvicorn", "demo")
    fastapi = import_extra("fastapi", "demo")
    uploads = folder / _UPLOADS
    report = report_of(recogniser.model)
    page = Page(recogniser, uploads, kept, report is not None)
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page.blocks(), "/",
        footer_links=[], run_history=False, show_error=False, max_file_size=MAX_PICTURE_BYTES, ssr_mode=False,
        mcp_server=False, enable_monitoring=False, pwa=False, allowed_paths=[], **page.theme(),
    )  # fmt: skip
    middleware = AllowlistMiddleware(app, hosts, report, uploads)
    config = uvicorn.Config(
        middleware,
        log_level="critical",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        server_header=False,
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
    )
    if open_:
        threading.Thread(target=webbrowser.open, args=[page_url(listener)], daemon=True).start()
    with periodic_cleanup(uploads), _sigterm_as_interrupt():
        uvicorn.Server(config).run(sockets=[listener])


def page_url(listener: socket.socket) -> str:
    """URL of the demo's page."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C within the block, so that temporary files are deleted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _free(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
