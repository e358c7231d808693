"""Expansion of ``~`` in paths, and quoting of paths in commands."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def at_home(path: str | Path) -> Path:
    """Replace ``~`` or ``~NAME`` at the start of a path by the home folder; an unknown name is unchanged."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown name


def argument(path: str | Path) -> str:
    """Quote a path as a shell argument that cannot be mistaken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)
