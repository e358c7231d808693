"""The page's server: its socket, its temporary folder, its end."""

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

from vplface.demo.gate import Gate, report_of
from vplface.demo.hosts import Hosts, authority, named, numeric_address
from vplface.demo.page import Page
from vplface.demo.recogniser import Recogniser
from vplface.demo.uploads import MOST_BYTES, sweeping
from vplface.errors import UsageError, import_extra

_NAMES_HERE = ("localhost", "127.0.0.1", "::1")
_UPLOADS = "uploads"
_CONNECTIONS = 100
"""That are open at a time; a visit needs a few."""
_GRACE = 1
"""Seconds that open connections are given at the end."""


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    address = numeric_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def hosts_of(host: str, names: Iterable[str] = ()) -> Hosts:
    """What requests may call a server that listens on ``host``: any numeric address, too, if others can reach it.

    Args:
        host: an address, or a name of one.
        names: further names.

    Raises:
        UsageError: a further name that is none.
    """
    own = authority(f"[{host}]" if ":" in host else host)
    given = [named(name) for name in names]
    return Hosts(frozenset([*_NAMES_HERE, *given, *([own[0]] if own else [])]), numeric=not is_loopback(host))


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        UsageError: the port is taken, with one that is free, or the address is none of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        here = socket.socket(family)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        here.bind(address)
        here.listen()
    except PermissionError as error:
        raise UsageError(f"--port {port}: {error.strerror}; ports below 1024 are the system's") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {port}: another program listens there; {_free(host)} is free") from error
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    return here


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only its owner can read, deleted at the end; gradio is told to put uploads there, and nothing else.

    Gradio reads its settings from the environment, some when it is imported: it must not have been.
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
    recogniser: Recogniser, here: socket.socket, folder: Path, *, kept: bool, hosts: Container[str], open_: bool
) -> None:
    """Serve the page until it is interrupted.

    Args:
        recogniser: the model in use.
        here: where to listen.
        folder: of :func:`temporary_folder`.
        kept: whether the gallery is kept at the end.
        hosts: the names under which this server may be asked for.
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
        footer_links=[], run_history=False, show_error=False, max_file_size=MOST_BYTES, ssr_mode=False,
        mcp_server=False, enable_monitoring=False, pwa=False, allowed_paths=[], **page.look(),
    )  # fmt: skip
    gate = Gate(app, hosts, report, uploads)
    config = uvicorn.Config(
        gate,
        log_level="critical",
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
        ws="none",
        limit_concurrency=_CONNECTIONS,
    )
    if open_:
        threading.Thread(target=webbrowser.open, args=[address_of(here)], daemon=True).start()
    with sweeping(uploads), _terminated_like_interrupted():
        uvicorn.Server(config).run(sockets=[here])


def address_of(here: socket.socket) -> str:
    """The page's address."""
    host, port = here.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is temporary is deleted."""

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
