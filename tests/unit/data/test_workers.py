from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vplface.data import workers
from vplface.data.workers import map_in_order
from vplface.errors import VplfaceError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
ROOM = 3 << 20
"""More than pipes and small shared memories hold."""


def fill(item: int, buffer: np.ndarray) -> tuple[int, Any]:
    """As many bytes as the item says."""
    buffer[:item] = item % 251
    return item, f"item {item}"


def die(item: int, buffer: np.ndarray) -> tuple[int, Any]:
    if item:
        os.kill(os.getpid(), signal.SIGKILL)
    return fill(item, buffer)


def stop(item: int, buffer: np.ndarray) -> tuple[int, Any]:
    if item:
        os.kill(os.getpid(), signal.SIGSTOP)
    return fill(item, buffer)


def sleep(item: int, buffer: np.ndarray) -> tuple[int, Any]:
    time.sleep(60 * item)
    return fill(item, buffer)


class Fails:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, item: int, buffer: np.ndarray) -> tuple[int, Any]:
        raise self.error


class LocalError(Exception):
    """Cannot be rebuilt from its arguments, so it cannot be pickled and read back."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [1, 2, 5])
def test_map_in_order_returns_whole_results_in_order(number: int) -> None:
    sizes = range(ROOM - 12, ROOM + 1)
    found = list(map_in_order(fill, sizes, ROOM, number))
    assert [len(pixels) for pixels, _ in found] == list(sizes)
    assert all((pixels == len(pixels) % 251).all() for pixels, _ in found)
    assert [rest for _, rest in found] == [f"item {item}" for item in sizes]


def test_map_in_order_does_not_use_dev_shm() -> None:
    def mapped(pid: int | str | None) -> set[str]:
        return {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm" in line}

    before = mapped("self")
    with closing(map_in_order(fill, range(ROOM, ROOM + 9), ROOM, 2)) as found:
        next(found)
        assert mapped("self").union(*(mapped(child.pid) for child in multiprocessing.active_children())) == before


def test_map_in_order_reports_a_killed_process_without_a_SIGCHLD_handler() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    found = map_in_order(die, range(2), ROOM, 2)
    next(found)
    time.sleep(0.3)  # it dies meanwhile
    assert signal.getsignal(signal.SIGCHLD) is before
    with pytest.raises(VplfaceError, match=r"pid \d+\) was killed by signal 9.*use fewer workers.*workers: 0"):
        next(found)


def test_map_in_order_reports_a_stopped_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_STOPPED_TIMEOUT", 0.2)
    monkeypatch.setattr(workers, "_POLL_INTERVAL", 0.1)
    with pytest.raises(VplfaceError, match=r"was stopped \(SIGSTOP\)"):
        list(map_in_order(stop, range(2), ROOM, 2))


def test_map_in_order_waits_for_a_process_that_continues_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_STOPPED_TIMEOUT", 5.0)
    found = map_in_order(stop, range(1, 2), ROOM, 1)
    wake = threading.Timer(0.5, lambda: [os.kill(p.pid, signal.SIGCONT) for p in multiprocessing.active_children()])  # type: ignore[misc,arg-type]
    wake.start()
    assert [rest for _, rest in found] == ["item 1"]
    wake.join()


def test_map_in_order_ends_when_should_stop_returns_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_POLL_INTERVAL", 0.05)
    waited: list[float] = []
    patient = True

    def enough(seconds: float) -> bool:
        waited.append(seconds)
        return not patient and seconds > 0.1

    results = map_in_order(sleep, range(2), ROOM, 1, enough)
    assert next(results)[1] == "item 0"
    waited.clear()  # the waiting is counted from zero for each result
    patient = False
    assert list(results) == []
    assert waited == sorted(waited)
    assert waited[-1] > 0.1


def test_map_in_order_raises_the_errors_of_a_task() -> None:
    with pytest.raises(VplfaceError, match=r"no memory left.*workers: 0"):
        list(map_in_order(Fails(MemoryError()), range(2), ROOM, 2))
    with pytest.raises(KeyError, match="missing") as raised:
        list(map_in_order(Fails(KeyError("missing")), range(2), ROOM, 2))
    assert "in a process that loads pictures" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match="LocalError: onetwo"):
        list(map_in_order(Fails(LocalError("one", "two")), range(2), ROOM, 2))


def test_map_in_order_reports_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "Resource unavailable")))
    with pytest.raises(VplfaceError, match=r"cannot start 2 processes.*Resource unavailable.*workers: 0"):
        list(map_in_order(fill, range(2), ROOM, 2))


def test_map_in_order_processes_end_when_the_main_process_is_killed() -> None:
    reading, writing = os.pipe()
    main = os.fork()
    if not main:
        found = map_in_order(fill, range(1000), 10, 3)
        next(found)
        os.write(writing, " ".join(str(child.pid) for child in multiprocessing.active_children()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    pids = os.read(reading, 1000).decode().split()
    os.waitpid(main, 0)
    assert len(pids) == 3
    until = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
