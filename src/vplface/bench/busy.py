"""Busy processes during a measurement, like loader workers or other users of a machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from types import TracebackType

_TURNS = 10**5


class BusyProcesses:
    """Processes that compute in one thread on request and sleep otherwise; a context manager.

    Args:
        count: number of processes.
    """

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._go = context.Event()
        self._ready = [context.Event() for _ in range(count)]
        self._processes = [context.Process(target=_count, args=(self._go, each), daemon=True) for each in self._ready]

    def __enter__(self) -> BusyProcesses:
        for process in self._processes:
            process.start()
        for ready in self._ready:
            ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the processes busy meanwhile."""
        self._go.set()
        try:
            yield
        finally:
            self._go.clear()


def _count(go: Event, ready: Event) -> None:
    ready.set()
    while True:
        go.wait()
        for _ in range(_TURNS):
            pass
