"""The processes of a run: launch, sums, barriers, and errors that name the ranks that are missing."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from vplface.errors import ConfigError, DataError, VplfaceError
from vplface.printable import printable
from vplface.reading import parse_json

_HEARTBEAT = 1.0
"""Seconds between two heartbeats of a rank."""


class RankError(VplfaceError):
    """Ranks of a run do not answer; the message names them."""


class PendingSum:
    """Pending sums of some numbers over processes.

    Args:
        numbers: of this process.
        group: the process group; None for a single process.
    """

    def __init__(self, numbers: Sequence[float], group: dist.ProcessGroup | None) -> None:
        self._total = torch.tensor(numbers, dtype=torch.float64)
        self._work = None if group is None else dist.all_reduce(self._total, group=group, async_op=True)

    def wait(self) -> list[float]:
        """Wait for the other processes; returns the sums."""
        if self._work is not None:
            self._work.wait()
        return list(self._total.tolist())


@dataclass
class DistributedContext:
    """The processes that share a run; by default one process.

    Attributes:
        rank: of this process.
        size: the number of processes.
        local_rank: number of this process on its machine, and of its GPU.
        restarted: whether torchrun has restarted this launch after the run had claimed its folder.
        group: the process group; None for a single process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarted: bool = False
    group: dist.ProcessGroup | None = None
    _turn: int = 0
    _store: Any = field(default=None, repr=False)
    _launch: Any = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which writes the journal, the models and the report."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums of some numbers over processes."""
        if self.group is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return list(total.tolist())

    def begin_sum(self, numbers: Sequence[float]) -> PendingSum:
        """Start to sum some numbers over processes, without waiting for the result."""
        return PendingSum(numbers, self.group)

    def union(self, items: set[str]) -> set[str]:
        """The union of a set of each process."""
        if self.group is None:
            return items
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, sorted(items), group=self.group)
        return set().union(*every)

    def on_main(self, work: Callable[[], str | None]) -> str | None:
        """Do some work in the first process while the others wait without a time limit; all get its result.

        Raises:
            Exception: in the first process what ``work`` raises.
            RankError: the same in the others.
        """
        if self.group is None:
            return work()
        self._turn += 1
        key = f"on_main/{self._turn}"
        if self.is_main:
            try:
                result = work()
            except BaseException as error:
                self._store.set(key, json.dumps({"error": f"{type(error).__name__}: {error}"}))
                raise
            self._store.set(key, json.dumps({"result": result}))
            return result
        while not self._store.check([key]):
            time.sleep(0.1)
        answer = self._read(key)
        if "error" in answer:
            raise RankError(f"rank 0 failed: {printable(str(answer['error']))}")
        result = answer.get("result")
        if not isinstance(result, str | None):
            raise RankError(f"rank 0 sent {result!r} in place of text; do all ranks run the same version?")
        return result

    def barrier(self) -> None:
        """Wait, without a time limit, until all processes are here."""
        if self.group is not None:
            self._turn += 1
            self._store.set(f"barrier/{self._turn}/{self.rank}", "here")
            while not self._store.check([f"barrier/{self._turn}/{rank}" for rank in range(self.size)]):
                time.sleep(0.1)

    def mark_begun(self) -> None:
        """Record for later restarts of this launch that the run has claimed its folder and is to be resumed."""
        if self._launch is not None and self.is_main:
            self._launch.set("begun", "yes")

    def report_step(self, step: int) -> None:
        """Report to the other processes which step this one has reached, counted from 0."""
        if self.group is not None:
            self._store.set(f"step/{self.rank}", str(step))

    @contextmanager
    def name_missing_ranks(self) -> Iterator[None]:
        """Turn the failure of a collective into an error that names the ranks that did not take part.

        Raises:
            RankError: naming the ranks, and where they were seen last.
        """
        try:
            yield
        except RuntimeError as error:
            if self.group is None or not _is_of_collective(error):
                raise
            raise RankError(self._missing_ranks(error)) from error

    def _missing_ranks(self, error: RuntimeError) -> str:
        """The message for a failed collective, from two readings of the heartbeats of all ranks."""
        before = self._read_all("heartbeat")
        time.sleep(3 * _HEARTBEAT)
        faults, steps = [], [step + 1 for step in self._read_all("step", 0)]
        for rank, (earlier, now) in enumerate(zip(before, self._read_all("heartbeat"), strict=True)):
            if rank != self.rank and (now == earlier or now is None):
                faults.append(f"rank {rank} has died or was stopped (last seen in step {steps[rank]})")
            elif rank != self.rank and not now["in_collective"]:
                faults.append(f"rank {rank} is alive but late: in step {steps[rank]}, {now['place']}")
        what = ", ".join(faults) or "all ranks are alive and waiting as well"
        return (
            f"rank {self.rank} timed out at step {steps[self.rank]}: {what} ({str(error).splitlines()[0]});"
            " if a rank is merely slow, raise timeout=SECONDS"
        )

    def _read_all(self, what: str, default: Any = None) -> list[Any]:
        """The last report of each rank."""
        keys = [f"{what}/{rank}" for rank in range(self.size)]
        return [self._read(key) if self._store.check([key]) else default for key in keys]

    def _read(self, key: str) -> Any:
        """The value of a key of the store.

        Raises:
            RankError: if the value was not written by a rank of this program.
        """
        try:
            found = parse_json(self._store.get(key), f"the store of the ranks, {key}")
        except DataError as error:
            raise RankError(f"{error}; does another program write to it?") from error
        fits = isinstance(found, int) if key.startswith("step/") else isinstance(found, dict)
        if not fits or (key.startswith("heartbeat/") and not {"in_collective", "place"} <= found.keys()):
            raise RankError(
                f"the store of the ranks, {key}: the value was not written by a rank; does another program write to it?"
            )
        return found

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Report to the other ranks, from a thread, that this process is alive and which line it executes."""
        over, caller = threading.Event(), threading.get_ident()

        def beat() -> None:
            with suppress(RuntimeError):  # the store is gone: so is the run
                while not over.wait(_HEARTBEAT):
                    frame = sys._current_frames()[caller]
                    place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
                    report = {"time": time.time(), "place": place, "in_collective": _is_in_collective(frame)}
                    self._store.set(f"heartbeat/{self.rank}", json.dumps(report))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _is_in_collective(frame: FrameType | None) -> bool:
    while frame is not None:
        of_torch = frame.f_globals.get("__name__") == "torch.distributed.distributed_c10d"
        if of_torch or frame.f_code is PendingSum.wait.__code__:
            return True
        frame = frame.f_back
    return False


def _is_of_collective(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "ProcessGroup" in str(error)


def launch() -> tuple[int, int] | None:
    """The number of processes and the local rank of this one, from torchrun's variables; None without torchrun.

    Raises:
        ConfigError: naming the variable that is missing or invalid.
    """
    size = _variable("WORLD_SIZE", "1", 1, _MOST)
    if "RANK" not in os.environ or (size == 1 and "TORCHELASTIC_RUN_ID" not in os.environ):
        if size > 1:
            raise ConfigError(f"WORLD_SIZE is {size} and RANK is not set{_ADVICE}")
        return None
    _variable("RANK", None, 0, size - 1)
    _variable("MASTER_PORT", None, 0, 65535)
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError(f"RANK is set and MASTER_ADDR is not{_ADVICE}")
    return size, _variable("LOCAL_RANK", "0", 0, _MOST)


_MOST = 2**20
_ADVICE = "; start with torchrun, which sets all of them, or unset RANK, WORLD_SIZE and LOCAL_RANK"


def _variable(name: str, default: str | None, least: int, most: int) -> int:
    text = os.environ.get(name, default)
    if text is None:
        raise ConfigError(f"RANK is set and {name} is not{_ADVICE}")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {text[:40]!r}{_ADVICE}")
    return int(text)


@contextmanager
def join(timeout: float) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, as its environment variables describe them, and leave at the end.

    Args:
        timeout: seconds that a collective waits for a process.

    Raises:
        ConfigError: see :func:`launch`.
        RankError: the processes cannot connect at the address that the variables give.
    """
    started = launch()
    if started is None:
        yield DistributedContext()
        return
    size, local_rank = started
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK={local_rank}, and there are {torch.cuda.device_count()} GPUs; start fewer processes"
                " (--nproc-per-node)"
            )
        torch.cuda.set_device(local_rank)
    patience = timedelta(seconds=timeout)
    try:
        shared, rank, size = next(iter(rendezvous("env://", timeout=patience)))
    except (RuntimeError, ValueError, OSError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0]
        raise RankError(f"the processes cannot connect at {place} (MASTER_ADDR, MASTER_PORT): {reason}") from error
    # torchrun's store still holds the reports of the ranks of an earlier start, their addresses included.
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    of_launch = PrefixStore("launch", shared)
    restarted = of_launch.check(["begun"])
    if size == 1:
        yield DistributedContext(restarted=restarted, _launch=of_launch)
        return
    try:
        dist.init_process_group(store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"rank {rank} could not join the others: {str(error).splitlines()[0]}") from error
    reports = PrefixStore("vplface", store)
    context = DistributedContext(rank, size, local_rank, restarted, dist.group.WORLD, _store=reports, _launch=of_launch)
    try:
        with context.heartbeat():
            yield context
    finally:
        dist.destroy_process_group()
