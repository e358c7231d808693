"""The home folder in the paths of every command, also where no shell replaces it, as in ``--out=~/x``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vplface.paths import at_home


def with_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose paths may begin with ``~``."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        return command(*args, **{name: _expanded(value) for name, value in options.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return at_home(value) if isinstance(value, Path) else value
