"""Ways to take a step of the head: ours, an eager one, and softmaxes without margin or memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from vplface.bench.problem import (
    LAM,
    LR,
    MARGIN,
    MAX_NORM,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Problem,
    Setting,
    Step,
    problem_of,
)
from vplface.clipping import clip_grad_norm_
from vplface.head import PrototypeHead
from vplface.margins import ArcFace
from vplface.optim import FusedSGD
from vplface.prototypes import Variational
from vplface.ranks import shard

SMALL_WORKSPACE_MB = 32
COMPILED = "eager (compiled)"
"""The only arm that may fail, without a compiler; memory of its compilation does not count as the peak of a step."""


class EagerHead(nn.Module):
    """The steps of the authors' code: dense normalisation, injection, all logits, one-hot targets, autograd."""

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
    in_backward: bool = True,
    workspace_mb: float | None = None,
) -> PrototypeHead:
    """The head with W, M and T of the problem; of a rank of a group, with the rows that are its own."""
    setting, rows = problem.setting, own(problem.setting.classes, group)
    head = PrototypeHead(
        setting.classes,
        setting.dim,
        margin=ArcFace(SCALE, MARGIN),
        variational=Variational(LAM, 10**9, 0) if variational else None,
        optimizer=FusedSGD(LR, MOMENTUM, WEIGHT_DECAY, in_backward=in_backward) if fused else None,
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
    """The part of a number of classes or pictures that this rank has; all of them without a group."""
    if group is None:
        return slice(0, count)
    part = shard(count, dist.get_rank(group), dist.get_world_size(group))
    return slice(part.start, part.stop)


def _head(problem: Problem, group: dist.ProcessGroup | None = None, *, clip: bool = False, **options: Any) -> Step:
    head, pictures = head_of(problem, group, in_backward=not clip, **options), own(problem.setting.batch, group)
    optimizer = head.optimizer or torch.optim.SGD(head.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> float:
        optimizer.zero_grad()
        with problem.autocast():
            loss = head(problem.leaf()[pictures], problem.labels[pictures])
        loss.backward()
        if head.optimizer is not None and clip:
            clip_grad_norm_(head.parameters(), MAX_NORM, head=head)
        elif clip:
            nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
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
        computes: arms with the same value here must compute the same loss.
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
    "vplface (clip)": Arm(partial(_head, clip=True), "clipped vpl", 4, 0),
    "vplface (torch SGD + clip)": Arm(partial(_head, clip=True, fused=False), "clipped vpl", 5, 0),
    "vplface (no VPL)": Arm(partial(_head, variational=False), "arcface", 2, 0),
    COMPILED: Arm(partial(_eager, compiled=True), "vpl", 9, 5),
    "normalised softmax": Arm(partial(_softmax, function=_normalised), "softmax", 5, 4),
}
if hasattr(F, "linear_cross_entropy"):
    ARMS = {**ARMS, "linear_cross_entropy": Arm(partial(_softmax, function=F.linear_cross_entropy), "linear", 3, 3)}
"""The first is what the others are compared with."""
