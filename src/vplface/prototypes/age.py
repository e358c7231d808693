"""Agreement of a memory with the next feature of its class, by the age of the memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vplface.prototypes.injection import Injection

BINS = 16
_ONE = 2**32
"""Cosines are summed as multiples of this unit, so that the sum does not depend on the order or on ranks."""


class CosineByAge:
    """Mean of cos(M_y, x) over samples x whose class has a living memory, in bins of its age.

    A memory that is written at the end of step t has T = Δt in step t + 1, where its age is 1. So in a step

        age_j = Δt − T_j + 1   of 1 … Δt

    and bin b holds the ages (b·w, (b + 1)·w], w = ⌈Δt/16⌉. If features did not drift, the cosine would be the same at
    every age: that of two pictures of a class. Its decrease towards Δt is the effect of drift.

    Attributes:
        sums: of cosines, in units of 2⁻³², by bin.
        counts: of samples, by bin.
    """

    def __init__(self) -> None:
        self.sums: Int64[Tensor, " bins"] = torch.zeros(BINS, dtype=torch.int64)
        self.counts: Int64[Tensor, " bins"] = torch.zeros(BINS, dtype=torch.int64)

    def update(
        self,
        features: Float[Tensor, "batch dim"],
        memory: Float[Tensor, "batch dim"],
        timer: Int[Tensor, " batch"],
        delta_t: int,
    ) -> None:
        """Count the samples of a step, before they are remembered.

        Args:
            features: x, unit rows.
            memory: M_y of the class of each; ignored where the timer is 0.
            timer: T_y, as the step saw it.
            delta_t: Δt.
        """
        cosine = (features * memory.to(features.dtype)).sum(dim=1).double()
        alive = (timer > 0) & (timer <= delta_t)  # memories of a run with a longer Δt have no known age
        alive &= cosine.isfinite()
        bins = torch.where(alive, (delta_t - timer) // _width(delta_t), 0).long()
        units = torch.where(alive, (cosine * _ONE).round(), 0).long()
        self.sums = self.sums.to(bins.device).index_add_(0, bins, units)
        self.counts = self.counts.to(bins.device).index_add_(0, bins, alive.long())

    def count(
        self, features: Float[Tensor, "batch dim"], rows: Int[Tensor, " batch"], met: Injection | None, delta_t: int
    ) -> None:
        """Count the samples of a step, as ``update`` does.

        Args:
            features: x, unit rows.
            rows: of the class of each in M; −1 where it is elsewhere, which is not counted.
            met: the memory that the step was compared with; None for none.
            delta_t: Δt.
        """
        if met is not None and len(met.timer):  # a rank may have no class
            own = rows.clamp_min(0)
            self.update(features, met.memory_rows(own), torch.where(rows >= 0, met.timer[own], 0), delta_t)

    def clear(self) -> None:
        """Reset all sums and counts."""
        self.sums.zero_()
        self.counts.zero_()


class MeanCosine(NamedTuple):
    """A mean and its number of samples."""

    mean: float
    samples: int


def cosine_by_age(sums: Int64[Tensor, " bins"], counts: Int64[Tensor, " bins"], delta_t: int) -> dict[int, MeanCosine]:
    """{the highest age of a bin: its mean cosine}, of bins that hold samples."""
    width = _width(delta_t)
    return {
        min((number + 1) * width, delta_t): MeanCosine(round(total / count / _ONE, 6), count)
        for number, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True))
        if count
    }


def _width(delta_t: int) -> int:
    return -(-delta_t // BINS)
