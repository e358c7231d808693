"""The training speed of a run, in pictures per second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vplface.training.distributed import DistributedContext


class Throughput:
    """Pictures per second since the last reading, over all ranks.

    Attributes:
        pictures: those of this rank since the last reading.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self._since = time.perf_counter()

    def read(self, context: DistributedContext) -> float:
        """The rate since the last reading; all ranks must call it."""
        now = time.perf_counter()
        rate = context.sum([self.pictures])[0] / (now - self._since)
        self.pictures, self._since = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time inside the block."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
