"""Progress bars on stderr for work that takes over two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from vplface.errors import import_extra
from vplface.printable import printable_name

PATIENCE = 2.0
"""Seconds of work before a bar appears."""

_WIDE = 120
"""Columns of a terminal from which a bar is long and the elapsed time is shown."""

_LOST = (OSError, RuntimeError, ValueError)
"""Exceptions of a bar: lost terminal, no thread available, closed stderr."""


class Advance(Protocol):
    """Function that advances a progress bar."""

    def __call__(self, count: int, status: str = "") -> None:
        """Advance by ``count`` items; ``status`` is shown at the end of the line."""


@contextmanager
def progress(description: str, total: int | None, done: int = 0, *, shown: bool = True) -> Iterator[Advance]:
    """Yield a function that advances the bar; the bar appears after two seconds.

    Failures to draw the bar (no thread available, lost terminal) are ignored.

    Args:
        description: label of the work, e.g. ``"embedding"``.
        total: number of items; None if unknown.
        done: number of items done before.
        shown: whether to show the bar; only one of several processes should.
    """
    began = time.monotonic()
    bars: Any = None
    task: Any = None

    def advance(count: int, status: str = "") -> None:
        nonlocal bars, task, done, shown
        done += count
        if bars is not None:
            with suppress(*_LOST):
                bars.update(task, completed=done, status=printable_name(status))
        elif shown and time.monotonic() - began > PATIENCE and done != total:
            bars = _bars()
            from vplface.console import start_display

            try:
                task = bars.add_task(
                    printable_name(description), total=total, completed=done, status=printable_name(status)
                )
                start_display(bars)
            except _LOST:
                _stop(bars)
                bars, shown = None, False

    try:
        yield advance
    finally:
        if bars is not None:
            _stop(bars)


def _stop(bars: Any) -> None:
    """Stop the bar, ignoring a lost terminal."""
    with suppress(*_LOST):
        bars.stop()


def _bars() -> Any:
    rich = import_extra("rich.progress", "train")
    from rich.table import Column

    from vplface.console import Console, is_taken_over

    redirect, console = not is_taken_over(), Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        rich.BarColumn(40 if console.width >= _WIDE else 8),
        rich.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        rich.TimeElapsedColumn(table_column=Column(no_wrap=True)),
        rich.TextColumn("eta"),
        rich.TimeRemainingColumn(table_column=Column(no_wrap=True)),
        rich.TextColumn("{task.fields[status]}", markup=False),
    )
    return rich.Progress(
        *(column for column in columns if console.width >= _WIDE or not isinstance(column, rich.TimeElapsedColumn)),
        console=console,
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )
