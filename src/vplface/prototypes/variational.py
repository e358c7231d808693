"""Variational Prototype Learning: a class is a distribution, and its prototype in a step is a draw from it.

Deng, Guo, Yang, Lattas, Zafeiriou, "Variational Prototype Learning for Deep Face Recognition", CVPR 2021.

The prototype v_j = W_j/‖W_j‖ of a class is mixed with M_j, the feature of that class that was seen last, for as
long as that memory is young (its timer T_j > 0):

    Z_j = (1 − λ·1{T_j>0})·v_j + λ·1{T_j>0}·M_j        u_j = Z_j/‖Z_j‖

so that the softmax compares each sample with every prototype and every remembered sample at no extra logit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn.functional import normalize

from vplface import devices
from vplface.bounds import require_whole
from vplface.prototypes.memory import Memory, State, rows_here, write_rows

LONGEST = 2**31 - 1
"""Steps that a timer can count."""


@dataclass(frozen=True)
class LastFeature(Memory):
    """The paper's memory: the feature of a class that was seen last.

    It is the most recent sample of the class. It takes d numbers and a timer for each class.
    """

    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """M_y ← x and T_y ← Δt for the classes seen, T ← max(T − 1, 0) for all others."""
        memory, timer = state["memory"], state["timer"]
        rows, features = rows_here(rows, features)
        timer.sub_(1).clamp_(min=0)
        write_rows(memory, rows, features.to(memory.dtype))
        write_rows(timer, rows, timer.new_full(rows.shape, delta_t))


@dataclass(frozen=True)
class Variational:
    """The hyper-parameters of variational prototypes.

    Attributes:
        lam: λ in [0, 1], the share of the memory in a prototype whose memory is alive. λ = 0 is the plain softmax.
            Near λ = .5 the mixture of opposite vectors (M = −v) vanishes and its direction is undefined.
        delta_t: Δt ≥ 1, the lifetime of a memory: it is injected in exactly the Δt steps after the one it was seen in.
            None, with ``start="auto"`` only: it is decided when injection begins.
        start: the step (≥ 0) at which memory begins; the steps before it are plain. A remembered feature is useful
            only if features drift slowly. ``"auto"`` waits for ``PrototypeHead.begin``, which
            ``vplface.training.drift.DriftMonitor`` calls when they do.
        renormalise: whether the mixture is normalised to unit length, as in the authors' code; False is the exact
            formula of the paper.
        memory: the kind of memory, which is injected as M; the last feature in the paper.

    Raises:
        ValueError: if a value lies outside its range.
        TypeError: if ``memory`` is not a kind of memory.
    """

    lam: float = 0.15
    delta_t: int | None = 200
    start: int | Literal["auto"] = 8000
    renormalise: bool = True
    memory: Memory = LastFeature()

    def __post_init__(self) -> None:
        if not 0.0 <= self.lam <= 1.0:
            raise ValueError(f"lam must lie in [0, 1], got {self.lam}")
        if self.delta_t is None and self.start != "auto":
            raise ValueError('delta_t=None is decided when injection begins, which needs start="auto"')
        if self.delta_t is not None:
            require_whole(delta_t=self.delta_t)
            if not 1 <= self.delta_t <= LONGEST:
                raise ValueError(f"delta_t must be at least 1 step and at most {LONGEST}, got {self.delta_t}")
        if self.start != "auto" and not (
            isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 0
        ):
            raise ValueError(f"start must be 'auto' or a step count of at least 0, got {self.start!r}")
        if not isinstance(self.memory, Memory):
            raise TypeError(f"memory must be a kind of memory such as LastFeature(), got {self.memory!r}")

    def lifetime(self, delta_t: int | None = None) -> int:
        """Δt of an injection that begins: the one given, or without one that of ``self``.

        Raises:
            ValueError: if Δt is not given, or is less than a step.
        """
        chosen = self.delta_t if delta_t is None else delta_t
        if chosen is None or isinstance(chosen, bool) or not 1 <= chosen <= LONGEST or chosen != int(chosen):
            raise ValueError(f"begin needs a lifetime of at least 1 step, got delta_t={chosen}")
        return int(chosen)


def inject(
    prototypes: Float[Tensor, "classes dim"],
    memory: Float[Tensor, "classes dim"],
    timer: Integer[Tensor, " classes"],
    lam: float,
    renormalise: bool = True,
) -> Float[Tensor, "classes dim"]:
    """Variational prototypes u from unit prototypes v; the memory is a constant, so gradients reach only v.

    Args:
        prototypes: v, unit rows.
        memory: M, unit rows where the timer is positive (other rows are ignored).
        timer: T, steps for which a memory will still be injected.
        lam: λ.
        renormalise: whether u has unit rows.
    """
    alive = (timer > 0).unsqueeze(1)
    mixture = (1.0 - lam) * prototypes + lam * memory.detach().to(prototypes.dtype)
    if renormalise:
        mixture = normalize(mixture, dim=1)
    return torch.where(alive, mixture, prototypes)


def remember(
    memory: Float[Tensor, "classes dim"],
    timer: Int[Tensor, " classes"],
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    delta_t: int,
) -> None:
    """End a step, in place: M_y ← x and T_y ← Δt for the classes seen, T ← max(T − 1, 0) for all others.

    Where a class occurs several times in the batch its last sample wins, on every device: positions are reduced to
    one per class before anything is written, because the order of colliding writes is undefined.

    Args:
        memory: M, overwritten at the rows in ``labels``.
        timer: T.
        features: x, unit rows, in the order of the global batch.
        labels: y, row numbers of ``memory``.
        delta_t: Δt.
    """
    timer.sub_(1).clamp_(min=0)
    seen, last = last_samples(labels)
    memory[seen] = features.detach()[last].to(memory.dtype)
    timer[seen] = delta_t


def last_samples(labels: Int[Tensor, " batch"]) -> tuple[Int[Tensor, " seen"], Int[Tensor, " seen"]]:
    """The classes of a batch in ascending order, and the position of the last sample of each."""
    seen, position = torch.unique(labels, return_inverse=True)
    order = torch.arange(len(labels), device=labels.device)
    last = torch.zeros_like(seen).scatter_reduce_(0, position, order, reduce="amax", include_self=True)
    return seen, last


def latest_samples(
    labels: Int[Tensor, " batch"],
) -> tuple[Int[Tensor, " seen"], Int[Tensor, " seen"], Bool[Tensor, " seen"]]:
    """The last sample of each class, in ascending order of classes; all samples, where the host should not wait.

    Returns:
        Their classes, their positions, and whether each is the last of its class.
    """
    if not devices.reading_waits(labels.device):
        seen, last = last_samples(labels)
        return seen, last, torch.ones_like(seen, dtype=torch.bool)
    classes, position = labels.sort(stable=True)
    return classes, position, torch.cat([classes[1:] != classes[:-1], classes.new_ones(1, dtype=torch.bool)])
