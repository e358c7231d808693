"""Threads that take pieces of work from a queue, each with torch's operations on itself alone.

torch divides each operation among its threads and waits for the slowest. Where another program holds a core, the wait
after each operation is as long as the scheduler lets that program run. Threads that take whole pieces wait once, at the
end, and a thread that is held up takes fewer of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier, Lock
from typing import Any, TypeVar

import torch

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


class _Threads:
    """A pool that grows to as many threads as are asked for."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0
        self._lock = Lock()

    def run(self, count: int, task: Callable[[int], None]) -> list[Future[None]]:
        """Start ``count`` calls of a task, numbered from 0."""
        with self._lock:
            if self._pool is None or self._size < count:
                self._pool, self._size = _started(count), count
            return [self._pool.submit(task, number) for number in range(count)]


def _take_one_thread() -> None:
    torch.get_num_threads()  # a thread takes the common number at its first operation, and keeps what is set afterwards
    torch.set_num_threads(1)


def _started(count: int) -> ThreadPoolExecutor:
    """A pool whose threads have all started: a thread that sets its own number sets that of all that start later."""
    number, ready = torch.get_num_threads(), Barrier(count)
    pool = ThreadPoolExecutor(count, "vplface", initializer=_take_one_thread)
    wait([pool.submit(ready.wait) for _ in range(count)])
    torch.set_num_threads(number)
    return pool


_threads = _Threads()


def _forget() -> None:
    """Forget the threads, which a fork does not copy."""
    global _threads
    _threads = _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def map_pieces(work: Callable[[_Piece, int], _Result], pieces: Sequence[_Piece]) -> list[_Result]:
    """The results of all pieces, in the order of the pieces.

    As many threads as torch has take pieces from a queue. With one thread or one piece the caller does the work itself.

    Args:
        work: takes a piece and the number of the thread; called without gradients. The pieces are independent.
        pieces: of work.

    Raises:
        BaseException: the first error of a piece, once every thread has stopped.
    """
    threads = min(torch.get_num_threads(), len(pieces))
    if threads <= 1:
        with torch.no_grad():
            return [work(piece, 0) for piece in pieces]
    results: list[Any] = [None] * len(pieces)
    queue = iter(range(len(pieces)))
    stopped = False

    def take(number: int) -> None:
        nonlocal stopped
        with torch.no_grad():
            for index in queue:
                if stopped:
                    return
                try:
                    results[index] = work(pieces[index], number)
                except BaseException:
                    stopped = True
                    raise

    running = _threads.run(threads, take)
    try:
        wait(running)
    finally:  # an interrupt leaves nobody at work
        stopped = True
        wait(running)
    for each in running:
        each.result()
    return results
