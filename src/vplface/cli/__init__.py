"""The command line ``vplface``: one file for each command."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line. Exit status: 0 success, 1 data or file error, 2 wrong usage."""
    _open_closed_streams()
    try:
        from vplface.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("typer", "rich", "cv2", "pydantic", "yaml"):
            raise
        sys.exit(f"vplface: the command line needs {error.name!r}; install it with: pip install 'vplface[train]'")
    from vplface.console import guard

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are not text
    guard()  # not restored at the end: the traceback of a bug may show names too
    app()


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed, so that no later file takes its place.

    It is opened for reading, so that writing to a closed standard output fails.
    """
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
