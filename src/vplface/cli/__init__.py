"""The command ``vplface``: one file a command."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 the data or a file is at fault, 2 the command line is wrong."""
    try:
        from vplface.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("typer", "rich", "cv2", "pydantic", "yaml"):
            raise
        sys.exit(f"vplface: the command line needs {error.name!r}; install it with: pip install 'vplface[train]'")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    app()
