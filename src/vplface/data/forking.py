"""Forking a process that uses OpenCV: its threads do not live on in the child, which would wait for them for ever."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")


@contextmanager
def worker_processes() -> Iterator[BaseContext]:
    """Yield the context in which to start worker processes; they have to be started inside.

    On Linux they are forked: a forked worker has everything imported and starts in milliseconds. Elsewhere the
    platform's own way is taken; macOS can fork, but its system libraries do not survive it. OpenCV has no threads
    while this is active. Each worker should call :func:`work_alone` first.
    """
    fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield multiprocessing.get_context("fork" if fork else None)
    finally:
        cv2.setNumThreads(threads)


def work_alone() -> None:
    """Keep OpenCV to one thread in this worker, for the other cores have workers of their own; end with the parent."""
    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A parent that is killed cannot stop its workers, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
