"""Pool of worker processes that return results in order, through shared memory.

The shared memory is anonymous, so it needs no space in ``/dev/shm``, which is small in containers. A killed process is
detected by its pipe, and a stopped one by its state; both raise errors instead of waiting.
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

from vplface.data.forking import configure_worker, worker_processes
from vplface.errors import VplfaceError

PREFETCH = 3
"""Number of results that a process prepares in advance."""
_POLL_INTERVAL = 0.5
"""Seconds between checks that processes are alive."""
_STOPPED_TIMEOUT = 10.0
"""Seconds after which a stopped process (SIGSTOP) counts as failed."""
_FAILED = -1
"""Size that marks a result as an exception."""
_ADVICE = (
    "use fewer workers (workers: 1) or none (workers: 0), or smaller batches; in a container, allow more memory"
    " (docker run --memory=...)"
)


class Task(Protocol):
    """Function of an item; picklable where processes are spawned."""

    def __call__(self, item: int, buffer: UInt8[np.ndarray, " bytes"]) -> tuple[int, Any]:
        """Write bytes to the start of ``buffer``; returns their number and any further picklable result."""


def map_in_order(
    task: Task,
    items: range,
    buffer_bytes: int,
    workers: int,
    should_stop: Callable[[float], bool] = lambda seconds: False,
) -> Generator[tuple[UInt8[np.ndarray, " bytes"], Any]]:
    """Run a task on each item in worker processes, and yield its bytes and further result in the order of the items.

    Args:
        task: function to run.
        items: its inputs.
        buffer_bytes: largest size of a result, in bytes.
        workers: number of processes, at least 1.
        should_stop: called every half second with the seconds waited for the next result; True ends the iteration.

    Raises:
        VplfaceError: processes cannot be started, or one of them dies, is stopped, or runs out of memory.
        Exception: any exception of the task.
    """
    processes = _start(task, items, buffer_bytes, workers)
    end = _terminator(processes)
    atexit.register(end)  # if an error ends the program, before multiprocessing waits for the processes
    try:
        for turn in range(len(items)):
            worker = processes[turn % workers]
            if not _wait_for_result(worker, should_stop):
                return
            yield worker.take()
    finally:
        end()
        atexit.unregister(end)


@dataclass
class _Worker:
    """Worker process, the parent's end of its pipe, and the slots for its results."""

    process: BaseProcess
    pipe: Connection
    slots: list[UInt8[np.ndarray, " bytes"]]
    taken: int = 0

    def take(self) -> tuple[UInt8[np.ndarray, " bytes"], Any]:
        """Receive the next result, which must be ready."""
        try:
            size, rest = self.pipe.recv()
            found = self.slots[self.taken % PREFETCH][: max(size, 0)].copy()
            self.taken += 1
            self.pipe.send_bytes(b"\0")  # the slot is free again
        except (EOFError, OSError) as error:
            raise VplfaceError(self._death_message()) from error
        if size == _FAILED:
            raise rest
        return found, rest

    def _death_message(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        return (
            f"a process that loads pictures (pid {self.process.pid}) {how}, probably because memory ran out: {_ADVICE}"
        )


def _start(task: Task, items: range, buffer_bytes: int, workers: int) -> list[_Worker]:
    processes: list[_Worker] = []
    try:
        with worker_processes() as context:
            for number in range(workers):
                memory = _shared_memory(context, PREFETCH * buffer_bytes)
                here, there = context.Pipe()
                process = context.Process(  # type: ignore[attr-defined]
                    target=_worker_main, args=(task, items[number::workers], memory, here, there), daemon=True
                )
                process.start()
                there.close()
                processes.append(_Worker(process, here, _slots(memory)))
    except (OSError, MemoryError) as error:
        _terminator(processes)()
        reason = getattr(error, "strerror", None) or error or "no memory"
        raise VplfaceError(f"cannot start {workers} processes that load pictures: {reason}; {_ADVICE}") from error
    return processes


def _shared_memory(context: BaseContext, size: int) -> Any:
    """Shared memory: anonymous under fork, else backed by a file that is passed to the process."""
    if context.get_start_method() == "fork":
        return mmap.mmap(-1, size)
    return context.RawArray("B", size)


def _slots(memory: Any) -> list[UInt8[np.ndarray, " bytes"]]:
    return np.split(np.frombuffer(memory, np.uint8), PREFETCH)


def _terminator(processes: list[_Worker]) -> Callable[[], None]:
    """Return a function that kills the processes, including stopped ones and those waiting for a disk."""

    def end() -> None:
        for worker in processes:
            worker.process.kill()
        for worker in processes:
            worker.process.join(5.0)
            worker.pipe.close()

    return end


def _wait_for_result(worker: _Worker, should_stop: Callable[[float], bool]) -> bool:
    """Wait for a result or the end of its process; False if ``should_stop`` ends the wait."""
    began, stopped_since = time.monotonic(), None
    while not worker.pipe.poll(_POLL_INTERVAL):
        now = time.monotonic()
        if should_stop(now - began):
            return False
        if not _is_stopped(worker.process):
            stopped_since = None
        elif stopped_since is None:
            stopped_since = now
        elif now - stopped_since > _STOPPED_TIMEOUT:
            raise VplfaceError(
                f"a process that loads pictures (pid {worker.process.pid}) was stopped (SIGSTOP) "
                f"{_STOPPED_TIMEOUT:.0f} s ago and has not resumed; find what stopped it, or load in the main process "
                "(workers: 0)"
            )
    return True


def _is_stopped(process: BaseProcess) -> bool:
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return state.rsplit(")", 1)[1].split()[0] == "T"
    return False


def _worker_main(task: Task, items: range, memory: Any, parents: Connection, pipe: Connection) -> None:
    """Main function of a worker: run the task on its items, at most ``PREFETCH`` results ahead."""
    parents.close()  # so that the pipe ends with the parent
    # The main process handles signals and ends this one when it needs no more pictures.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    configure_worker()
    torch.set_num_threads(1)
    slots = _slots(memory)
    with suppress(EOFError, OSError):  # the main process is gone
        for turn, item in enumerate(items):
            if turn >= PREFETCH:
                pipe.recv_bytes()  # the main process has taken a result
            try:
                size, rest = task(item, slots[turn % PREFETCH])
            except BaseException as error:
                size, rest = _FAILED, _picklable(error)
            pipe.send((size, rest))
            if size == _FAILED:
                break
        while True:  # closing the pipe before all is read would lose results
            pipe.recv_bytes()


def _picklable(error: BaseException) -> BaseException:
    """Exception that can be pickled and raised in another process."""
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
