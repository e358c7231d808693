"""Progress bars with an estimated time of arrival, on stderr, for everything that takes over two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from vplface.errors import import_extra
from vplface.printable import printable_name

PATIENCE = 2.0
"""Seconds of work before a bar appears."""

_LOST = (OSError, RuntimeError, ValueError)
"""What a bar may raise: the terminal is gone, no thread can be started, stderr is closed."""


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, count: int, status: str = "") -> None:
        """``count`` more items are done; ``status`` is shown at the end of the line."""


@contextmanager
def progress(description: str, total: int | None, done: int = 0, *, shown: bool = True) -> Iterator[Advance]:
    """Yield a function to be called as work is done; the bar appears once the work has lasted for two seconds.

    A bar that cannot be drawn stops nothing: no thread can be started for it, or the terminal has gone.

    Args:
        description: what is being done, e.g. ``"embedding"``.
        total: how many items there are; None if that is not known.
        done: how many of them were done before.
        shown: whether there is a bar at all; of many processes one should show it.
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
    """Give the terminal back, as far as it is still there."""
    with suppress(*_LOST):
        bars.stop()


def _bars() -> Any:
    rich = import_extra("rich.progress", "train")
    from vplface.console import Console, is_taken_over

    redirect = not is_taken_over()
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("eta"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[status]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )
