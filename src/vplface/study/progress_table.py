"""A live table of the active runs of a study; nothing is shown where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from rich.live import Live

from vplface.console import Console, start_display
from vplface.printable import printable_name
from vplface.run_folder import RunFolder
from vplface.study.grid import Cell
from vplface.tables import Table

_SHOW_EVERY = 1.0


@dataclass
class _Watched:
    cell: Cell
    began: float
    first_step: int
    step: int
    steps: int | None = None
    speed: str = ""
    loss: str = ""

    def refresh(self) -> None:
        """Read the last step, loss and speed from the journal of the run."""
        line = RunFolder(self.cell.folder).last_metrics()
        self.step = int(line.get("step", self.step))
        self.loss = f"{line['loss']:.3f}" if "loss" in line else self.loss
        self.speed = f"{line['pictures_per_second']:.0f}" if "pictures_per_second" in line else self.speed
        if self.steps is None:
            self.steps = RunFolder(self.cell.folder).total_steps()

    def seconds_per_step(self, now: float) -> float | None:
        taken = self.step - self.first_step
        return (now - self.began) / taken if taken > 0 else None


class ProgressTable:
    """A table of the active runs, with the time that is left.

    Args:
        total: the number of chosen runs.
        waiting: those that are not finished yet.
        workers: how many run at a time.
    """

    def __init__(self, total: int, waiting: Sequence[Cell], workers: int) -> None:
        self._total, self._left, self._workers = total, len(waiting), workers
        self._failed = 0
        self._active: dict[str, _Watched] = {}
        self._lasted: list[float] = []
        self._shown = 0.0
        self._console = Console(stderr=True)
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> ProgressTable:
        if self._console.is_terminal and self._left:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            start_display(self._live)
            self._stack.callback(self._live.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def started(self, cell: Cell) -> None:
        """Add a run that has started or resumed."""
        done = int(RunFolder(cell.folder).last_metrics().get("step", 0))
        self._active[cell.name] = _Watched(cell, time.monotonic(), done, done)

    def ended(self, cell: Cell, *, failed: bool) -> None:
        """Remove a run that has ended."""
        watched = self._active.pop(cell.name)
        self._left -= 1
        self._failed += failed
        if not failed:
            self._lasted.append(time.monotonic() - watched.began)

    def show(self) -> None:
        """Redraw the table, at most once a second."""
        now = time.monotonic()
        if self._live is None or now - self._shown < _SHOW_EVERY:
            return
        self._shown = now
        for watched in self._active.values():
            watched.refresh()
        self._live.update(self._table(now), refresh=True)

    def eta(self, now: float) -> float | None:
        """Estimated seconds until all runs have ended; None before any run has a speed."""
        remaining, whole = [], list(self._lasted)
        for watched in self._active.values():
            pace = watched.seconds_per_step(now)
            if pace is not None and watched.steps is not None:
                remaining.append(pace * (watched.steps - watched.step))
                whole.append(pace * watched.steps)
        if not whole:
            return None
        mean = sum(whole) / len(whole)
        unknown = self._left - len(remaining)
        return (sum(remaining) + unknown * mean) / max(1, min(self._workers, self._left))

    def _table(self, now: float) -> Table:
        done = self._total - self._left - self._failed
        words = f"{done} of {self._total} runs finished"
        words += f", {self._failed} failed" if self._failed else ""
        eta = self.eta(now)
        words += f", about {_duration(eta)} left" if eta is not None else ""
        table = Table(words, ["run", "step", "of", "loss", "pictures/s", "left"])
        for watched in self._active.values():
            pace = watched.seconds_per_step(now)
            known = pace is not None and watched.steps is not None
            left = _duration(pace * (watched.steps - watched.step)) if known else ""  # type: ignore[operator]
            steps = "" if watched.steps is None else f"{watched.steps:,}"
            table.add_row(
                printable_name(watched.cell.name), f"{watched.step:,}", steps, watched.loss, watched.speed, left
            )
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
