"""Steps: the forward passes that they consist of, and the order of their samples."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor


class MemoryWriter(Protocol):
    """Ends a step in place of ``LastFeature.remember``, without a read on the host."""

    def __call__(
        self,
        remembered: Float[Tensor, "batch dim"],
        rows: Int[Tensor, " batch"],
        memory: Float[Tensor, "classes dim"],
        timer: Integer[Tensor, " classes"],
        delta_t: int,
    ) -> None:
        """M_y ← x and T_y ← Δt for the last sample of each class, T ← max(T − 1, 0) for all others."""


class StepPart(NamedTuple):
    """One forward pass of a step, with the samples of all ranks.

    Attributes:
        features: x, unit rows, which were compared with the prototypes.
        labels: y, global class ids.
        remembered: unit rows that are remembered: x, or those of a momentum encoder.
        counts: samples of each rank.
        observed: the number of each sample that the state of the margin follows, if any.
        write: how M and T are written, where the kind of memory does not do it. Labels are then rows of M, −1 where
            there is no such row here.
    """

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    remembered: Float[Tensor, "batch dim"]
    counts: list[int]
    observed: Float[Tensor, " batch"] | None = None
    write: MemoryWriter | None = None


class FinishedStep(NamedTuple):
    """A whole step in the order of the global batch: rank by rank, all its parts. The attributes are as in StepPart."""

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    remembered: Float[Tensor, "batch dim"]
    observed: Float[Tensor, " batch"] | None
    write: MemoryWriter | None = None


def whole_step(parts: list[StepPart]) -> FinishedStep:
    """The step that has these parts."""
    if len(parts) == 1:
        (part,) = parts
        return FinishedStep(part.features, part.labels, part.remembered, part.observed, part.write)
    split = [
        list(zip(*(torch.split(column, part.counts) for column in part[:3]), strict=True)) for part in parts
    ]  # by part, then by rank
    ordered = [piece for of_rank in zip(*split, strict=True) for piece in of_rank]
    features, labels, remembered = (torch.cat(column) for column in zip(*ordered, strict=True))
    observed = [part.observed for part in parts if part.observed is not None]
    return FinishedStep(features, labels, remembered, torch.cat(observed) if observed else None, parts[-1].write)
