"""What a step of the head costs, beside what it must cost at least and what others cost, in one run.

All arms take the same W, M, T, features and labels, and take turns, so that a machine that slows down slows them all.
Those that compute the same loss are checked to do so before anything is timed.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from vplface.errors import VplfaceError
from vplface.head import PrototypeHead
from vplface.margins import ArcFace
from vplface.optim import FusedSGD
from vplface.progress import progress
from vplface.prototypes import Variational
from vplface.ranks import shard
from vplface.softmax.product import product

SCALE, MARGIN, LAM = 64.0, 0.5, 0.15
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
SMALL_WORKSPACE_MB = 32
COMPILED = "eager (compiled)"
"""The one arm that may fail, where there is no compiler; what its compilation takes is no peak of a step."""

Step = Callable[[], float]
"""Forward, backward and update; returns the loss."""


@dataclass(frozen=True)
class Setting:
    """The size of a step.

    Attributes:
        classes: N.
        batch: B.
        dim: d.
        dtype: of the products; everything else is float32.
        device: where it runs.
        workspace_mb: of the tiled head.
    """

    classes: int
    batch: int
    dim: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    workspace_mb: float = 256

    @property
    def state_bytes(self) -> int:
        """W, momentum, M and T."""
        return self.classes * (3 * 4 * self.dim + 4)


@dataclass
class Problem:
    """What every arm is given: W, M, T, features of unit length, labels."""

    setting: Setting
    weight: Tensor
    memory: Tensor
    timer: Tensor
    features: Tensor
    labels: Tensor

    def autocast(self) -> torch.autocast:
        """Products in the type of the setting."""
        return torch.autocast(
            self.weight.device.type, dtype=torch.bfloat16, enabled=self.setting.dtype == "bfloat16", cache_enabled=False
        )

    def leaf(self) -> Tensor:
        """The features, as something to be differentiated by."""
        return self.features.clone().requires_grad_()


def problem_of(setting: Setting) -> Problem:
    """Random numbers of the given size, half of the memory alive."""
    generator = torch.Generator().manual_seed(0)
    rows = setting.classes, setting.dim
    weight, memory = (torch.empty(rows).normal_(0, 0.05, generator=generator) for _ in range(2))
    timer = 10**9 * (torch.rand(setting.classes, generator=generator) < 0.5).int()
    features = F.normalize(torch.randn(setting.batch, setting.dim, generator=generator))
    labels = torch.randint(setting.classes, (setting.batch,), generator=generator)
    F.normalize(memory, out=memory)
    return Problem(setting, *(each.to(setting.device) for each in (weight, memory, timer, features, labels)))


class EagerHead(nn.Module):
    """What the authors' code does: dense normalisation, injection, all logits, one-hot, autograd."""

    def __init__(self, problem: Problem, compiled: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(problem.weight.clone())
        self.memory, self.timer, self.autocast = problem.memory.clone(), problem.timer.clone(), problem.autocast
        self.seen: tuple[Tensor, Tensor] | None = None
        self._loss = torch.compile(self._loss_of, dynamic=False) if compiled else self._loss_of

    def _loss_of(self, features: Tensor, labels: Tensor, alive: Tensor) -> Tensor:
        with self.autocast():
            mixture = (1 - LAM * alive) * F.normalize(self.weight) + LAM * alive * self.memory
            cosine = F.linear(F.normalize(features), F.normalize(mixture))
        cosine = cosine.float().clamp(-1 + 1e-7, 1 - 1e-7)
        own = torch.zeros_like(cosine).scatter_(1, labels.unsqueeze(1), 1.0)
        logits = SCALE * torch.where(own > 0, torch.cos(torch.acos(cosine) + MARGIN), cosine)
        return F.cross_entropy(logits, labels)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Remember the features of the step before, then the loss."""
        if self.seen is not None:
            before, classes = self.seen
            self.timer.sub_(1).clamp_(min=0)
            self.memory[classes] = F.normalize(before)
            self.timer[classes] = 10**9
        self.seen = features.detach(), labels
        loss: Tensor = self._loss(features, labels, (self.timer > 0).float().unsqueeze(1))
        return loss


def _eager(problem: Problem, compiled: bool = False) -> Step:
    """The eager head and torch's SGD."""
    head = EagerHead(problem, compiled)
    optimizer = torch.optim.SGD(head.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = head(problem.leaf(), problem.labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def head_of(
    problem: Problem,
    group: dist.ProcessGroup | None = None,
    *,
    variational: bool = True,
    fused: bool = True,
    workspace_mb: float | None = None,
) -> PrototypeHead:
    """The head with W, M and T of the problem; of a rank of a group, with the rows that are its own."""
    setting, rows = problem.setting, own(problem.setting.classes, group)
    head = PrototypeHead(
        setting.classes,
        setting.dim,
        margin=ArcFace(SCALE, MARGIN),
        variational=Variational(LAM, 10**9, 0) if variational else None,
        optimizer=FusedSGD(LR, MOMENTUM, WEIGHT_DECAY) if fused else None,
        workspace_mb=setting.workspace_mb if workspace_mb is None else workspace_mb,
        process_group=group,
        device=setting.device,
    )
    with torch.no_grad():
        head.weight.copy_(problem.weight[rows])
    if variational:
        head.memory, head.timer = problem.memory[rows].clone(), problem.timer[rows].clone()
    return head


def own(count: int, group: dist.ProcessGroup | None) -> slice:
    """Which of so many classes or pictures this rank has; all of them without a group."""
    if group is None:
        return slice(0, count)
    part = shard(count, dist.get_rank(group), dist.get_world_size(group))
    return slice(part.start, part.stop)


def _head(problem: Problem, group: dist.ProcessGroup | None = None, **options: Any) -> Step:
    head, pictures = head_of(problem, group, **options), own(problem.setting.batch, group)
    optimizer = head.optimizer or torch.optim.SGD(head.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> float:
        optimizer.zero_grad()
        with problem.autocast():
            loss = head(problem.leaf()[pictures], problem.labels[pictures])
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def sharded(setting: Setting, group: dist.ProcessGroup | None, slices: int = 1) -> Step:
    """The step of the head over the ranks of a group, for ``processes.scale``; there are no statistics of slices."""
    problem = problem_of(setting)
    step = _head(problem, group)
    problem.weight, problem.memory = (torch.empty(0) for _ in range(2))
    return step


def _softmax(problem: Problem, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
    """A softmax without margin and memory, as a point of reference."""
    weight = nn.Parameter(problem.weight.clone())
    optimizer = torch.optim.SGD([weight], lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with problem.autocast():
            loss = function(problem.leaf(), weight, problem.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def _normalised(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(SCALE * F.linear(features, F.normalize(weight)).float(), labels)


@dataclass(frozen=True)
class Arm:
    """A way to take the step.

    Attributes:
        make: from the problem to the step.
        computes: arms with the same word here must come to the same loss.
        matrices: of N×d numbers in float32 that it holds at its peak, about.
        logits: of B×N numbers, likewise.
    """

    make: Callable[[Problem], Step]
    computes: str
    matrices: int
    logits: int


ARMS: Mapping[str, Arm] = {
    "eager": Arm(_eager, "vpl", 9, 7),
    "vplface": Arm(_head, "vpl", 3, 0),
    f"vplface ({SMALL_WORKSPACE_MB} MB)": Arm(partial(_head, workspace_mb=SMALL_WORKSPACE_MB), "vpl", 3, 0),
    "vplface (torch SGD)": Arm(partial(_head, fused=False), "vpl", 4, 0),
    "vplface (no VPL)": Arm(partial(_head, variational=False), "arcface", 2, 0),
    COMPILED: Arm(partial(_eager, compiled=True), "vpl", 9, 5),
    "normalised softmax": Arm(partial(_softmax, function=_normalised), "softmax", 5, 4),
}
if hasattr(F, "linear_cross_entropy"):
    ARMS = {**ARMS, "linear_cross_entropy": Arm(partial(_softmax, function=F.linear_cross_entropy), "linear", 3, 3)}
"""The first is what the others are compared with."""


def measure(setting: Setting, arms: Sequence[str], repeats: int, *, memory: bool = True) -> dict[str, Any]:
    """Medians over ``repeats`` rounds in which every arm takes one step, in seconds.

    Args:
        setting: the size.
        arms: keys of ``ARMS``.
        repeats: rounds, after one that is not counted.
        memory: also measure peak memory, each arm in a process of its own.

    Returns:
        The setting; ``floor``: the three products, and reading W, momentum and M and writing W and momentum;
        ``arms``: of each its ``seconds`` (median) and ``spread`` (least and most), ``over_floor`` and ``speedup`` over
        the first arm (medians of ratios within rounds), ``extra_mb`` beyond its state; or the ``reason`` it was left
        out.

    Raises:
        VplfaceError: if two arms that should do not come to the same loss.
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
    title = f"N {setting.classes:,}, B {setting.batch}, {setting.dtype}"
    with progress(title, (repeats + 1) * len(seconds)) as advance:
        for _ in range(repeats + 1):
            for name, step in {**steps, **least}.items():
                seconds[name].append(_time(step, setting.device))
                advance(1, name)
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
    del step, steps, least, problem  # each step holds W and M
    gc.collect()
    for name in arms if memory else ():
        if "seconds" in found[name] and name != COMPILED:
            found[name]["extra_mb"] = peak_memory(setting, name)
    return {**asdict(setting), "floor": floor, "arms": {name: found[name] for name in arms}}


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(setting: Setting, arm: str) -> float:
    """MiB that two steps take beyond W, momentum, M and T: measured in a new process, against one of a small size."""
    if setting.device.startswith("cuda"):
        return _peak_of(setting, arm) - _resident(setting, arm)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        small = pool.apply(_peak_of, (replace(setting, classes=64, batch=8, dim=16), arm))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return float(pool.apply(_peak_of, (setting, arm)) - small - _resident(setting, arm))


def _resident(setting: Setting, arm: str) -> float:
    """MiB of what stays: the state of the arm, and the features and labels of the problem."""
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
    """The three products over all classes, two of them in two layouts, and moving what has to be moved."""
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


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _time(step: Step, device: str) -> float:
    synchronize(device)
    began = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - began


def _require_equal_losses(losses: Mapping[str, float], tolerance: float) -> None:
    for (one, a), (other, b) in _pairs(losses):
        if ARMS[one].computes == ARMS[other].computes and not math.isclose(a, b, rel_tol=tolerance):
            raise VplfaceError(f"{one} and {other} come to different losses, {a} and {b}: one of them is wrong")


def _pairs(losses: Mapping[str, float]) -> Iterator[tuple[tuple[str, float], tuple[str, float]]]:
    entries = list(losses.items())
    return ((one, other) for k, one in enumerate(entries) for other in entries[k + 1 :])


def _too_large(arm: Arm, setting: Setting) -> str | None:
    """Why an arm is left out, if its peak would not fit the memory that is free."""
    needed = 4 * setting.classes * (arm.matrices * setting.dim + arm.logits * setting.batch)
    free = free_bytes(setting.device)
    if needed < 0.9 * free:
        return None
    return f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"


def free_bytes(device: str) -> float:
    """Memory that is free where a setting runs."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info()[0])
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if sys.platform != "win32" else math.inf


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
