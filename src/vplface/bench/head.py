"""Time and memory of a step of the head, its lower bound and other implementations, in one run.

All arms take the same W, M, T, features and labels, and take turns, so that a machine that slows down slows them all.
Those that compute the same loss are checked to do so before anything is timed.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vplface.bench.busy import BusyProcesses
from vplface.bench.head_arms import ARMS, COMPILED, Arm
from vplface.bench.machine import free_bytes, synchronize
from vplface.bench.problem import Problem, Setting, Step, problem_of
from vplface.errors import VplfaceError
from vplface.progress import progress
from vplface.softmax.product import product


def measure(
    setting: Setting, arms: Sequence[str], repeats: int, *, memory: bool = True, beside: int = 0
) -> dict[str, Any]:
    """Medians over ``repeats`` rounds in which every arm takes one step, in seconds.

    Args:
        setting: the size.
        arms: keys of ``ARMS``.
        repeats: rounds, after one that is not counted.
        memory: also measure peak memory, each arm in a process of its own.
        beside: busy processes beside which every arm takes a second step in each round.

    Returns:
        The setting; ``floor``: the three products, and reading W, momentum and M and writing W and momentum;
        ``arms``: of each its ``seconds`` (median) and ``spread`` (least and most), ``over_floor`` and ``speedup`` over
        the first arm (medians of ratios within rounds), ``beside`` busy processes its ``seconds`` and ``slowdown``
        against itself alone (likewise), ``extra_mb`` beyond its state; or the ``reason`` it was left out.

    Raises:
        VplfaceError: if two arms that should compute the same loss do not.
    """
    problem = problem_of(setting)
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Step] = {}
    losses: dict[str, float] = {}
    for name in arms:
        if reason := _too_large(ARMS[name], setting):
            found[name] = {"reason": reason}
            continue
        try:
            step = ARMS[name].make(problem)
            losses[name] = step()
        except (ImportError, NotImplementedError, RuntimeError) as error:
            if name != COMPILED:
                raise
            found[name] = {"reason": f"torch.compile failed: {str(error).splitlines()[0]}"}
            continue
        steps[name] = step
    _require_equal_losses(losses, 1e-4 if setting.dtype == "float32" else 2e-2)
    least = _floor_steps(problem)
    seconds: dict[str, list[float]] = {name: [] for name in (*steps, *least)}
    busy: dict[str, list[float]] = {name: [] for name in (steps if beside else ())}
    title = f"N {setting.classes:,}, B {setting.batch}, {setting.dtype}"
    with progress(title, (repeats + 1) * (len(seconds) + len(busy))) as advance, BusyProcesses(beside) as others:
        for _ in range(repeats + 1):
            for name, step in {**steps, **least}.items():
                seconds[name].append(_time(step, setting.device))
                advance(1, name)
            for name in busy:
                with others.at_work():
                    busy[name].append(_time(steps[name], setting.device))
                advance(1, f"{name}, beside {beside}")
    floors = [_floor({name: seconds[name][r] for name in least}) for r in range(1, repeats + 1)]
    floor = {key: statistics.median(each[key] for each in floors) for key in floors[0]}
    for name in steps:
        counted = seconds[name][1:]
        found[name] = {
            "seconds": statistics.median(counted),
            "spread": [min(counted), max(counted)],
            "over_floor": statistics.median(t / each["seconds"] for t, each in zip(counted, floors, strict=True)),
            "loss": losses[name],
        }
        if arms[0] in seconds:
            ratios = [a / b for a, b in zip(seconds[arms[0]][1:], counted, strict=True)]
            found[name]["speedup"] = statistics.median(ratios)
        if beside:
            slowdowns = [b / a for a, b in zip(counted, busy[name][1:], strict=True)]
            found[name]["beside"] = {
                "processes": beside,
                "seconds": statistics.median(busy[name][1:]),
                "slowdown": statistics.median(slowdowns),
            }
    del step, steps, least, problem  # each step holds W and M
    gc.collect()
    for name in arms if memory else ():
        if "seconds" in found[name] and name != COMPILED:
            found[name]["extra_mb"] = peak_memory(setting, name)
    return {**asdict(setting), "floor": floor, "arms": {name: found[name] for name in arms}}


def peak_memory(setting: Setting, arm: str) -> float:
    """MiB that two steps take beyond W, momentum, M and T: measured in a new process, against one of a small size."""
    if setting.device.startswith("cuda"):
        return _peak_of(setting, arm) - _resident(setting, arm)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        small = pool.apply(_peak_of, (replace(setting, classes=64, batch=8, dim=16), arm))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return float(pool.apply(_peak_of, (setting, arm)) - small - _resident(setting, arm))


def _resident(setting: Setting, arm: str) -> float:
    """MiB of persistent memory: the state of the arm, and the features and labels of the problem."""
    matrices = ARMS[arm].matrices
    held = setting.classes * (4 * setting.dim * min(matrices, 3) + 4) + setting.batch * (4 * setting.dim + 8)
    return held / 2**20


def _peak_of(setting: Setting, arm: str) -> float:
    problem = problem_of(setting)
    step = ARMS[arm].make(problem)
    problem.weight, problem.memory = (torch.empty(0) for _ in range(2))
    gc.collect()
    cuda = setting.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the preparations
    for _ in range(2):
        step()
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _floor_steps(problem: Problem) -> dict[str, Step]:
    """The three products over all classes, two of them in two layouts, and the necessary memory traffic."""
    setting = problem.setting
    dtype = torch.bfloat16 if setting.dtype == "bfloat16" else torch.float32
    weight, features = problem.weight.to(dtype), problem.features.to(dtype)
    size = 2048 if setting.device == "cpu" else 2**16
    tiles = [slice(first, first + size) for first in range(0, setting.classes, size)]
    across, along = (
        torch.randn(shape, device=weight.device).to(dtype) for shape in ((setting.batch, size), (size, setting.batch))
    )
    momentum = torch.zeros_like(problem.weight)

    def over_tiles(one: Callable[[slice, int], Tensor]) -> Step:
        def all_of_them() -> float:
            for tile in tiles:
                one(tile, len(weight[tile]))
            return 0.0

        return all_of_them

    def move() -> float:
        momentum.add_(problem.memory)  # reads M and momentum, writes momentum
        problem.weight.mul_(1.0)  # reads and writes W
        return 0.0

    return {
        "floor: W·xᵀ": over_tiles(lambda tile, n: product(weight[tile], features)),
        "floor: x·Wᵀ": over_tiles(lambda tile, n: product(features, weight[tile])),
        "floor: pᵀ·x": over_tiles(lambda tile, n: product(along[:n], features.t())),
        "floor: p·W, across": over_tiles(lambda tile, n: product(across[:, :n], weight[tile].t())),
        "floor: p·W, along": over_tiles(lambda tile, n: product(along[:n].t(), weight[tile].t())),
        "floor: memory": move,
    }


def _floor(seconds: Mapping[str, float]) -> dict[str, float]:
    """The floor of a round, from the seconds of its steps; of two layouts the faster counts."""
    cosines, transposed, of_weight, across, along, memory = seconds.values()
    products = min(cosines, transposed) + of_weight + min(across, along)
    return {"products": products, "memory": memory, "seconds": products + memory}


def _time(step: Step, device: str) -> float:
    synchronize(device)
    began = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - began


def _require_equal_losses(losses: Mapping[str, float], tolerance: float) -> None:
    for (one, a), (other, b) in _pairs(losses):
        if ARMS[one].computes == ARMS[other].computes and not math.isclose(a, b, rel_tol=tolerance):
            raise VplfaceError(f"{one} and {other} compute different losses, {a} and {b}: one of them is wrong")


def _pairs(losses: Mapping[str, float]) -> Iterator[tuple[tuple[str, float], tuple[str, float]]]:
    entries = list(losses.items())
    return ((one, other) for k, one in enumerate(entries) for other in entries[k + 1 :])


def _too_large(arm: Arm, setting: Setting) -> str | None:
    """The reason to leave out an arm whose peak would exceed the free memory; None otherwise."""
    needed = 4 * setting.classes * (arm.matrices * setting.dim + arm.logits * setting.batch)
    free = free_bytes(setting.device)
    if needed < 0.9 * free:
        return None
    return f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
