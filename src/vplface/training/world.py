"""The processes of a run, as torchrun started them; without torchrun there is one."""

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

_BEAT = 1.0
"""Seconds between two signs of life."""


class RankError(VplfaceError):
    """The ranks of a run have lost each other; the message names who is missing."""


@dataclass
class World:
    """Who takes part in a run.

    Attributes:
        rank: of this process.
        size: how many there are.
        local_rank: number of this process on its machine, and of its GPU.
        again: whether torchrun has started this run again, after it had made the run folder its own.
        group: to talk within; None for a single process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    again: bool = False
    group: dist.ProcessGroup | None = None
    _turn: int = 0
    _store: Any = field(default=None, repr=False)
    _launch: Any = field(default=None, repr=False)

    @property
    def main(self) -> bool:
        """Whether this process writes the journal, the models and the report."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over processes."""
        if self.group is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return list(total.tolist())

    def union(self, items: set[str]) -> set[str]:
        """What any process has."""
        if self.group is None:
            return items
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, sorted(items), group=self.group)
        return set().union(*every)

    def once(self, work: Callable[[], str | None]) -> str | None:
        """Do something in the first process while the others wait, however long it takes; all get its result.

        Raises:
            Exception: in the first process what ``work`` raises.
            RankError: the same in the others.
        """
        if self.group is None:
            return work()
        self._turn += 1
        key = f"once/{self._turn}"
        if self.main:
            try:
                result = work()
            except BaseException as error:
                self._store.set(key, json.dumps({"error": f"{type(error).__name__}: {error}"}))
                raise
            self._store.set(key, json.dumps({"result": result}))
            return result
        while not self._store.check([key]):
            time.sleep(0.1)
        told = self._said(key)
        if "error" in told:
            raise RankError(f"rank 0 failed: {printable(str(told['error']))}")
        result = told.get("result")
        if not isinstance(result, str | None):
            raise RankError(f"rank 0 said {result!r} where a text was due; do all ranks run the same version?")
        return result

    def meet(self) -> None:
        """Wait until all processes are here, however long that takes."""
        if self.group is not None:
            self._turn += 1
            self._store.set(f"met/{self._turn}/{self.rank}", "here")
            while not self._store.check([f"met/{self._turn}/{rank}" for rank in range(self.size)]):
                time.sleep(0.1)

    def has_begun(self) -> None:
        """Leave word, for when torchrun should start this run again, that it is one to go on with."""
        if self._launch is not None and self.main:
            self._launch.set("begun", "yes")

    def arrive(self, step: int) -> None:
        """Leave word that this process has come to a step."""
        if self.group is not None:
            self._store.set(f"arrived/{self.rank}", str(step))

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Turn the failure of a collective into an error that names the ranks that did not come.

        Raises:
            RankError: naming them.
        """
        try:
            yield
        except RuntimeError as error:
            if self.group is None or not _is_of_a_collective(error):
                raise
            raise RankError(self._blame(error)) from error

    def _blame(self, error: RuntimeError) -> str:
        before = self._told("alive")
        time.sleep(3 * _BEAT)
        faults, steps = [], [step + 1 for step in self._told("arrived", 0)]
        for rank, (earlier, now) in enumerate(zip(before, self._told("alive"), strict=True)):
            if rank != self.rank and (now == earlier or now is None):
                faults.append(f"rank {rank} has died or was stopped (last seen in step {steps[rank]})")
            elif rank != self.rank and not now["waits"]:
                faults.append(f"rank {rank} lives but is late: in step {steps[rank]}, {now['place']}")
        what = ", ".join(faults) or "all ranks live and wait as well"
        return (
            f"rank {self.rank} waits in vain in step {steps[self.rank]}: {what} ({str(error).splitlines()[0]});"
            " if a rank is merely slow, raise timeout=SECONDS"
        )

    def _told(self, what: str, nothing: Any = None) -> list[Any]:
        """What each rank has last said of itself."""
        keys = [f"{what}/{rank}" for rank in range(self.size)]
        return [self._said(key) if self._store.check([key]) else nothing for key in keys]

    def _said(self, key: str) -> Any:
        """What the store holds under a key.

        Raises:
            RankError: if that is not what a rank of this program has written.
        """
        try:
            found = parse_json(self._store.get(key), f"the store of the ranks, {key}")
        except DataError as error:
            raise RankError(f"{error}; does another program write to it?") from error
        fits = isinstance(found, int) if key.startswith("arrived/") else isinstance(found, dict)
        if not fits or (key.startswith("alive/") and not {"waits", "place"} <= found.keys()):
            raise RankError(f"the store of the ranks, {key}: not what a rank writes; does another program write to it?")
        return found

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Let the others see that this process lives, and where it is."""
        over, caller = threading.Event(), threading.get_ident()

        def beat() -> None:
            with suppress(RuntimeError):  # the store is gone: so is the run
                while not over.wait(_BEAT):
                    frame = sys._current_frames()[caller]
                    place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
                    sign = {"time": time.time(), "place": place, "waits": _is_in_collective(frame)}
                    self._store.set(f"alive/{self.rank}", json.dumps(sign))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _is_in_collective(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.distributed.distributed_c10d":
            return True
        frame = frame.f_back
    return False


def _is_of_a_collective(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "ProcessGroup" in str(error)


def launch() -> tuple[int, int] | None:
    """The number of processes and the number of this one on its machine, as torchrun's variables say; None without it.

    Raises:
        ConfigError: naming the variable that is missing or makes no sense.
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
def join(timeout: float) -> Iterator[World]:
    """The world that torchrun made, as its environment variables describe it; left again at the end.

    Args:
        timeout: seconds after which a process that does not come is given up.

    Raises:
        ConfigError: see :func:`launch`.
        RankError: the processes cannot meet at the address that the variables give.
    """
    started = launch()
    if started is None:
        yield World()
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
        raise RankError(f"the processes cannot meet at {place} (MASTER_ADDR, MASTER_PORT): {reason}") from error
    # torchrun's store still holds what the ranks of an earlier start said of themselves, their addresses included.
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    of_launch = PrefixStore("launch", shared)
    again = of_launch.check(["begun"])
    if size == 1:
        yield World(again=again, _launch=of_launch)
        return
    try:
        dist.init_process_group(store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"rank {rank} could not join the others: {str(error).splitlines()[0]}") from error
    told = PrefixStore("vplface", store)
    world = World(rank, size, local_rank, again, dist.group.WORLD, _store=told, _launch=of_launch)
    try:
        with world.beating():
            yield world
    finally:
        dist.destroy_process_group()
