"""The interface of kinds of memory, which replace "the last feature" of a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from vplface import devices
from vplface.prototypes.draw import Draw

State: TypeAlias = dict[str, Tensor]
"""Tensors of a memory, by name."""
ReadRows: TypeAlias = Callable[[Tensor, Int[Tensor, " rows"] | slice], Float[Tensor, "rows dim"]]
"""Takes ``memory`` and row numbers; returns the vectors to inject, of the type of ``memory``."""


class Memory(ABC):
    """A kind of memory: the tensors of each class, how a step is remembered, and which vector is injected.

    A kind is a frozen dataclass of hyper-parameters; its state is separate, in a ``State``. Your own kind may
    override any of the methods. ``memory`` may be overwritten in place: its rows are kept for later backward passes.
    Of all other tensors the function of ``reader`` takes copies, or ``remember`` replaces them.

    Attributes:
        per_class: names of the tensors with a row for each class, stored by class id. ``memory`` is [N, d], or
            [N, K, d] with K slots; ``timer``, [N] or [N, K], says for how many steps a class or a slot will still be
            injected.
        shared: names of the tensors that belong to no class; the same on all ranks.
    """

    per_class: ClassVar[tuple[str, ...]] = ("memory", "timer")
    shared: ClassVar[tuple[str, ...]] = ()

    def empty(self, classes: int, dim: int, dtype: torch.dtype, device: torch.device, seed: int) -> State:
        """The state before anything is remembered.

        Args:
            classes: rows here.
            dim: d.
            dtype: of ``memory``.
            device: where to put it.
            seed: of random numbers.
        """
        return {
            "memory": torch.zeros(classes, dim, dtype=dtype, device=device),
            "timer": torch.zeros(classes, dtype=torch.int32, device=device),
        }

    def exchanged(self, dim: int) -> int:
        """Numbers that ranks add up for each class that a step has seen."""
        return 0

    def home(self, classes: Int[Tensor, " seen"], num_classes: int, seed: int) -> Int[Tensor, " seen"]:
        """The classes in whose rows the features of ``classes`` are remembered: their own."""
        return classes

    @abstractmethod
    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """End a step.

        Args:
            state: changed in place.
            features: the last of each class in the global batch, unit rows, in the order of class ids.
            rows: the row in which each is remembered, all different; −1 for rows on another rank. Where the host should
                not wait for the device, features that are not the last of their class are there too, with −1.
            delta_t: Δt.
            total: the sum over ranks, a collective call.
        """

    def reader(self, state: State, draw: Draw) -> ReadRows | None:
        """A function that reads the vectors to inject, the same in the forward and the backward pass of a step.

        None stands for ``memory`` itself.

        Args:
            state: as the step finds it.
            draw: the step's random numbers.
        """
        return None


def rows_here(
    rows: Int[Tensor, " seen"], values: Shaped[Tensor, "seen ..."]
) -> tuple[Int[Tensor, " here"], Shaped[Tensor, "here ..."]]:
    """Rows without those of −1, and their values; as they are where the host would have to read how many there are.

    Args:
        rows: row numbers; −1 for none.
        values: of each row.
    """
    if devices.reading_waits(rows.device):
        return rows, values
    here = rows >= 0
    return rows[here], values[here]


def read_rows(target: Shaped[Tensor, "classes ..."], rows: Int[Tensor, " here"]) -> Shaped[Tensor, "here ..."]:
    """Rows of a tensor; any row in the place of −1, or 0 where there is none."""
    return target[rows.clamp_min(0)] if len(target) else target.new_zeros(len(rows), *target.shape[1:])


def write_rows(
    target: Shaped[Tensor, "classes ..."], rows: Int[Tensor, " here"], values: Shaped[Tensor, "here ..."]
) -> None:
    """Write rows of a tensor, in place.

    Args:
        target: a row for each class.
        rows: of ``rows_here``: all different but for −1, which writes nothing.
        values: of these rows.
    """
    if not devices.reading_waits(target.device):
        target[rows] = values
        return
    if not len(rows) or not len(target):
        return
    # A row of −1 writes what another row writes too, or without any what is there.
    other = rows.argmax(0, keepdim=True)
    place = rows[other].clamp_min(0)
    value = torch.where(_beside(rows[other] >= 0, values), values[other], target[place])
    here = rows >= 0
    target[torch.where(here, rows, place)] = torch.where(_beside(here, values), values, value)


def _beside(mask: Bool[Tensor, " here"], values: Tensor) -> Tensor:
    return mask.view(-1, *(1 for _ in values.shape[1:]))


def living(timer: Integer[Tensor, "classes ..."]) -> Integer[Tensor, " classes"]:
    """The number of steps for which each class will still be injected."""
    return timer if timer.ndim == 1 else timer.amax(1)


def require_memory_dtype(dtype: torch.dtype | None) -> None:
    """Raise ValueError for a type in which there are no unit vectors; None is that of W."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"memory_dtype must be a floating-point type, got {dtype}")


def number_type(dtype: torch.dtype) -> torch.dtype:
    """The type of statistics of vectors of a type: at least float32."""
    return torch.promote_types(dtype, torch.float32)
