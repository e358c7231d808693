"""Registration of commands, with their help and their paths prepared."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from vplface.paths import at_home

Command = Callable[..., None]


def command_group(summary: str, *commands: Command) -> typer.Typer:
    """A group of commands, whose help begins with ``summary``."""
    group = typer.Typer(no_args_is_help=True, help=summary)
    register(group, *commands)
    return group


def register(group: typer.Typer, *commands: Command) -> None:
    """Add commands, named after their functions: ``evaluate_ijb`` is ``evaluate-ijb``, ``list_`` ``list``."""
    for command in commands:
        name = command.__name__.rstrip("_").replace("_", "-")
        group.command(name, help=_paragraphs(command.__doc__ or ""))(_with_home(command))


def _paragraphs(text: str) -> str:
    """A docstring with its lines joined, so that the terminal wraps them; paragraphs marked by backslash-b are kept."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in parts)


def _with_home(command: Command) -> Command:
    """The command with ``~`` expanded in its paths, also where no shell does it, as in ``--out=~/x``."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        command(*args, **{name: _expanded(value) for name, value in options.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return at_home(value) if isinstance(value, Path) else value
