"""Progress bars with an estimated time of arrival, on stderr, for everything that takes over two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from vplface.errors import import_extra

PATIENCE = 2.0
"""Seconds of work before a bar appears."""


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, count: int, status: str = "") -> None:
        """``count`` more items are done; ``status`` is shown at the end of the line."""


@contextmanager
def progress(description: str, total: int | None, done: int = 0, *, shown: bool = True) -> Iterator[Advance]:
    """Yield a function to be called as work is done; the bar appears once the work has lasted for two seconds.

    Args:
        description: what is being done, e.g. ``"embedding"``.
        total: how many items there are; None if that is not known.
        done: how many of them were done before.
        shown: whether there is a bar at all; of many processes one should show it.
    """
    began = time.monotonic()
    bars: Any = None
    task: Any = None
    with ExitStack() as stack:

        def advance(count: int, status: str = "") -> None:
            nonlocal bars, task, done
            done += count
            if bars is not None:
                bars.update(task, completed=done, status=status)
            elif shown and time.monotonic() - began > PATIENCE and done != total:
                bars = stack.enter_context(_bars())
                task = bars.add_task(description, total=total, completed=done, status=status)

        yield advance


def _bars() -> Any:
    rich = import_extra("rich.progress", "train")
    console = import_extra("rich.console", "train").Console(stderr=True)
    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("eta"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[status]}"),
        console=console,
    )
