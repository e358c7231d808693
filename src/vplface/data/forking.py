"""Worker processes for code that uses OpenCV, whose threads do not survive a fork and would deadlock the child."""

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
    """Yield the multiprocessing context in which to start worker processes within the block.

    On Linux workers are forked, which takes milliseconds because everything is imported. Elsewhere the platform's
    default is used; macOS can fork, but its system libraries do not survive it. OpenCV has no threads within the
    block. Each worker should call :func:`configure_worker` first.
    """
    fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield multiprocessing.get_context("fork" if fork else None)
    finally:
        cv2.setNumThreads(threads)


def configure_worker() -> None:
    """Limit OpenCV to one thread in this worker, and exit when the parent process ends."""
    cv2.setNumThreads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent ends; a killed parent cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
