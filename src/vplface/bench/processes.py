"""Scaling of a step over processes on the cores of this machine.

*Strong* scaling keeps the step and gives every process a smaller part; *weak* scaling keeps the part of a process and
makes the step larger. All settings take turns, one step each, while the processes that a setting
does not need are idle. The first steps of each are compared with those of one process, so that no case is faster
because it skips work.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from vplface.bench.machine import cores, free_bytes
from vplface.bench.problem import Setting, Step
from vplface.errors import VplfaceError
from vplface.progress import progress

CHECKED = {"float32": 3, "bfloat16": 2}
"""Steps whose losses are compared. Rounding to bfloat16 grows from one to the next."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Largest difference of losses, relative to the first. Gradients that are not averaged cause more in float32."""

Make = Callable[[Setting, dist.ProcessGroup | None, int], Step]
"""Maker of the step of a rank: ``make(setting, group, slices)``, a function that can be pickled.

Without a group one process takes the whole batch, in ``slices`` where it has batch statistics: those of so many ranks.
"""


@dataclass(frozen=True)
class Case:
    """A step and the processes that take it.

    Attributes:
        scaling: ``"base"`` for the fewest processes; ``"strong"`` if the whole step is that of the base, ``"weak"`` if
            the part of each process is.
        processes: number of processes that share it.
        threads: of each.
        setting: of the whole step.
    """

    scaling: Literal["base", "strong", "weak"]
    processes: int
    threads: int
    setting: Setting

    @property
    def work(self) -> int:
        """Number of logits of the whole step."""
        return self.setting.batch * self.setting.classes


@dataclass
class RankTimes:
    """Losses and times of a case on a rank.

    Attributes:
        losses: of its first steps.
        expected: what they are in one process; known to the first rank.
        seconds: of its steps, in rounds.
    """

    losses: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def scale(
    make: Make,
    base: Setting,
    processes: Sequence[int],
    repeats: int,
    *,
    grows: Literal["batch", "classes"],
    threads: int = 1,
) -> dict[str, Any]:
    """Strong and weak scaling from the fewest processes to the others.

    Args:
        make: the step.
        base: the step of the fewest processes.
        processes: numbers of processes to measure.
        repeats: rounds, after one that is not counted; in each every case takes a step.
        grows: what grows with the processes in weak scaling.
        threads: of each process; 0 divides the cores among them.

    Returns:
        The setting, and ``scaling``, for each case: ``seconds`` of a step (median, of the slowest rank), ``spread``
        (least and most), ``pictures_per_second``, ``speedup``: logits a second, over those of the base, ``efficiency``:
        the same a thread, 1 where twice the threads get twice as far; and ``losses`` of the first steps.

    Raises:
        VplfaceError: if losses differ from those of one process, a process is killed, or the memory that is free is
            not enough.
    """
    cases = cases_of(base, processes, threads, grows)
    _require_memory(cases)
    title = f"N {base.classes:,}, B {base.batch}, {base.dtype}"
    ranks = _start(make, cases, repeats, title)
    scaling = []
    for case, times in zip(cases, zip(*ranks, strict=True), strict=True):
        part = times[: case.processes]
        for rank in part:
            _require_equal(case, rank.losses, part[0].expected)
        slowest = [max(seconds) for seconds in zip(*(rank.seconds for rank in part), strict=True)][1:]
        scaling.append(_figures(case, slowest) | {"losses": part[0].losses})
    for entry, case in zip(scaling, cases, strict=True):
        entry["speedup"] = case.work / cases[0].work * scaling[0]["seconds"] / entry["seconds"]
        share = cases[0].processes * cases[0].threads / (case.processes * case.threads)
        entry["efficiency"] = entry["speedup"] * share
    return {**asdict(base), "scaling": scaling}


def cases_of(base: Setting, processes: Sequence[int], threads: int, grows: Literal["batch", "classes"]) -> list[Case]:
    """The base, then strong and weak scaling to each larger number of processes."""
    first, *others = sorted(set(processes))
    each = {count: threads or max(cores() // count, 1) for count in (first, *others)}
    cases = [Case("base", first, each[first], base)]
    for count in others:
        larger = replace(base, **{grows: getattr(base, grows) * count // first})
        cases += [Case("strong", count, each[count], base), Case("weak", count, each[count], larger)]
    return cases


def _figures(case: Case, seconds: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "scaling": case.scaling,
        "processes": case.processes,
        "threads": case.threads,
        "classes": case.setting.classes,
        "batch": case.setting.batch,
        "seconds": median,
        "spread": [min(seconds), max(seconds)],
        "pictures_per_second": case.setting.batch / median,
    }


def _require_equal(case: Case, losses: Sequence[float], expected: Sequence[float]) -> None:
    for step, (loss, wanted) in enumerate(zip(losses, expected, strict=True), start=1):
        if not abs(loss - wanted) <= TOLERANCE[case.setting.dtype] * abs(expected[0]):
            raise VplfaceError(
                f"{case.processes} processes ({case.scaling} scaling) have a loss of {loss} in step {step}, but"
                f" one process has {wanted}: they do not do the same work"
            )


def _require_memory(cases: Sequence[Case]) -> None:
    """Check the free memory against all states, and the inputs of the ranks of the largest case."""
    largest = max(cases, key=lambda case: case.setting.state_bytes * case.processes)
    needed = sum(case.setting.state_bytes for case in cases) + largest.processes * largest.setting.state_bytes
    free = free_bytes("cpu")
    if needed > 0.9 * free:
        raise VplfaceError(
            f"{largest.processes} processes with {largest.setting.classes:,} classes need about"
            f" {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; use fewer of either"
        )


def _start(make: Make, cases: Sequence[Case], repeats: int, title: str) -> list[list[RankTimes]]:
    """Losses and times of every case, by rank."""
    most = max(case.processes for case in cases)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = (most, folder, make, cases, repeats, title)
        try:
            start_processes(_rank, arguments, most, daemon=True, start_method=_start_method())  # type: ignore[no-untyped-call]  # torch's
        except ProcessExitedException as error:
            raise VplfaceError(
                f"process {error.error_index} of {most} was killed ({error.signal_name}), perhaps for lack"
                " of memory; use fewer classes or processes"
            ) from error
        return [[RankTimes(**each) for each in json.loads(_answer(folder, rank).read_bytes())] for rank in range(most)]


def _start_method() -> str:
    """On Linux processes are forked from one that has imported torch, which takes seconds, once for all."""
    if sys.platform != "linux":
        return "spawn"
    # Optimizers import torch._dynamo in their first step.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "torch._dynamo"])
    return "forkserver"


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"


def _rank(rank: int, most: int, folder: Path, make: Make, cases: Sequence[Case], repeats: int, title: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=most)
    times = _take_turns(rank, make, cases, repeats, title)
    _answer(folder, rank).write_text(json.dumps([asdict(each) for each in times]), encoding="utf-8")
    gc.collect()  # a group that still exists when the interpreter exits crashes the process
    dist.barrier()
    dist.destroy_process_group()


def _take_turns(rank: int, make: Make, cases: Sequence[Case], repeats: int, title: str) -> list[RankTimes]:
    groups = {count: dist.new_group(range(count)) for count in sorted({case.processes for case in cases})}
    times = [RankTimes() for _ in cases]
    steps: list[Step | None] = []
    total = sum(CHECKED[case.setting.dtype] + repeats + 1 for case in cases)
    with progress(title, total, shown=rank == 0) as advance:
        for case, entry in zip(cases, times, strict=True):
            torch.set_num_threads(case.threads)
            checked = CHECKED[case.setting.dtype]
            if rank == 0 and case.processes > 1:
                alone = make(case.setting, None, case.processes)
                entry.expected = [alone() for _ in range(checked)]
                del alone
            step = None
            if rank < case.processes:
                step = make(case.setting, groups[case.processes] if case.processes > 1 else None, 1)
                entry.losses = [step() for _ in range(checked)]
                entry.expected = entry.expected or entry.losses
            steps.append(step)
            advance(checked, "checking losses")
        for _ in range(repeats + 1):
            for case, step, entry in zip(cases, steps, times, strict=True):
                torch.set_num_threads(case.threads)
                dist.barrier()
                if step is not None:
                    began = time.perf_counter()
                    step()
                    entry.seconds.append(time.perf_counter() - began)
                advance(1, f"{case.processes} processes, {case.scaling}")
    return times
