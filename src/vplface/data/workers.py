"""Processes that prepare items side by side. Results come in order, through memory that the processes share.

The shared memory has no name, so it takes no room in ``/dev/shm``, which containers keep small. A process that is
killed is noticed by its pipe, to which it alone writes, and one that is stopped by its state. Both are errors; nothing
waits for them.
"""

from __future__ import annotations

import atexit
import mmap
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8

from vplface.data.forking import work_alone, worker_processes
from vplface.errors import VplfaceError

AHEAD = 3
"""Results of a process that may lie ready before the first of them is taken."""
_LOOK_EVERY = 0.5
"""Seconds between two looks at whether processes still live."""
_STOPPED = 10.0
"""Seconds after which a process that was stopped (SIGSTOP) is given up."""
_FAILED = -1
"""The size of a result that is an exception."""
_ADVICE = (
    "use fewer workers (workers: 1) or none (workers: 0), or smaller batches; in a container, allow more memory"
    " (docker run --memory=...)"
)


class Task(Protocol):
    """What is done with an item; where processes are spawned, it can be pickled."""

    def __call__(self, item: int, room: UInt8[np.ndarray, " room"]) -> tuple[int, Any]:
        """Write bytes to the start of ``room``; returns how many, and what else there is to say."""


def in_order(
    task: Task, items: range, room: int, workers: int, give_up: Callable[[float], bool] = lambda seconds: False
) -> Generator[tuple[UInt8[np.ndarray, " bytes"], Any]]:
    """Do a task for each item in processes, and yield its bytes and the rest, in the order of the items.

    Args:
        task: what is done.
        items: what it is done with.
        room: bytes that a result takes at most.
        workers: processes, at least 1.
        give_up: called every half second with the seconds that the next result has been waited for; if it returns
            True, there are no more results.

    Raises:
        VplfaceError: if processes cannot be started, or one of them dies, is stopped, or runs out of memory.
        Exception: what the task raised.
    """
    helpers = _start(task, items, room, workers)
    end = _ending(helpers)
    atexit.register(end)  # of a program that an error ends, before multiprocessing waits for the processes
    try:
        for turn in range(len(items)):
            helper = helpers[turn % workers]
            if not _wait_for(helper, give_up):
                return
            yield helper.take()
    finally:
        end()
        atexit.unregister(end)


@dataclass
class _Helper:
    """A process, this side of its pipe, and the places for its results."""

    process: BaseProcess
    pipe: Connection
    places: list[UInt8[np.ndarray, " room"]]
    taken: int = 0

    def take(self) -> tuple[UInt8[np.ndarray, " bytes"], Any]:
        """The next result, which is there."""
        try:
            size, rest = self.pipe.recv()
            found = self.places[self.taken % AHEAD][: max(size, 0)].copy()
            self.taken += 1
            self.pipe.send_bytes(b"\0")  # its place is free again
        except (EOFError, OSError) as error:
            raise VplfaceError(self._epitaph()) from error
        if size == _FAILED:
            raise rest
        return found, rest

    def _epitaph(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        return (
            f"a process that loads pictures (pid {self.process.pid}) {how}, most likely for want of memory: {_ADVICE}"
        )


def _start(task: Task, items: range, room: int, workers: int) -> list[_Helper]:
    helpers: list[_Helper] = []
    try:
        with worker_processes() as context:
            for number in range(workers):
                memory = _shared_memory(context, AHEAD * room)
                here, there = context.Pipe()
                process = context.Process(  # type: ignore[attr-defined]
                    target=_work, args=(task, items[number::workers], memory, here, there), daemon=True
                )
                process.start()
                there.close()
                helpers.append(_Helper(process, here, _places(memory)))
    except (OSError, MemoryError) as error:
        _ending(helpers)()
        reason = getattr(error, "strerror", None) or error or "no memory"
        raise VplfaceError(f"cannot start {workers} processes that load pictures: {reason}; {_ADVICE}") from error
    return helpers


def _shared_memory(context: BaseContext, size: int) -> Any:
    """Memory that processes share: of a fork without a name or a file, else of a file that is passed on."""
    if context.get_start_method() == "fork":
        return mmap.mmap(-1, size)
    return context.RawArray("B", size)


def _places(memory: Any) -> list[UInt8[np.ndarray, " room"]]:
    return np.split(np.frombuffer(memory, np.uint8), AHEAD)


def _ending(helpers: list[_Helper]) -> Callable[[], None]:
    """A function that ends the processes, also those that were stopped or wait for a disk."""

    def end() -> None:
        for helper in helpers:
            helper.process.kill()
        for helper in helpers:
            helper.process.join(5.0)
            helper.pipe.close()

    return end


def _wait_for(helper: _Helper, give_up: Callable[[float], bool]) -> bool:
    """Wait until a result, or the end of its process, is there; False if it is given up."""
    began, stopped_since = time.monotonic(), None
    while not helper.pipe.poll(_LOOK_EVERY):
        now = time.monotonic()
        if give_up(now - began):
            return False
        if not _is_stopped(helper.process):
            stopped_since = None
        elif stopped_since is None:
            stopped_since = now
        elif now - stopped_since > _STOPPED:
            raise VplfaceError(
                f"a process that loads pictures (pid {helper.process.pid}) was stopped (SIGSTOP) {_STOPPED:.0f} s ago"
                " and has not resumed; find what stopped it, or load in the main process (workers: 0)"
            )
    return True


def _is_stopped(process: BaseProcess) -> bool:
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return state.rsplit(")", 1)[1].split()[0] == "T"
    return False


def _work(task: Task, items: range, memory: Any, parents: Connection, pipe: Connection) -> None:
    """What a process does: the task for each of its items, never more than ``AHEAD`` results ahead."""
    parents.close()  # so that the pipe ends with the parent
    # Signals to stop are for the main process. It ends this one when it needs no more pictures.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    work_alone()
    torch.set_num_threads(1)
    places = _places(memory)
    with suppress(EOFError, OSError):  # the main process is gone
        for turn, item in enumerate(items):
            if turn >= AHEAD:
                pipe.recv_bytes()  # the main process has taken a result
            try:
                size, rest = task(item, places[turn % AHEAD])
            except BaseException as error:
                size, rest = _FAILED, _portable(error)
            pipe.send((size, rest))
            if size == _FAILED:
                break
        while True:  # a pipe that is closed before all is read loses what is in it
            pipe.recv_bytes()


def _portable(error: BaseException) -> BaseException:
    """An exception as another process can raise it."""
    if isinstance(error, MemoryError):
        return VplfaceError(f"a process that loads pictures has no memory left: {_ADVICE}")
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(trace)
    if not isinstance(error, VplfaceError):
        error.add_note(f"in a process that loads pictures:\n{trace}")
    return error
