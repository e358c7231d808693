"""Paths as people write them, and as messages show them in commands."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def at_home(path: str | Path) -> Path:
    """The path, with ``~`` or ``~NAME`` at its start replaced by the home folder; unchanged for an unknown name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown name


def argument(path: str | Path) -> str:
    """The path as an argument of a command: quoted for a shell, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)
