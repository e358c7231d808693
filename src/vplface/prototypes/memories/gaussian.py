"""A class as a normal distribution on the sphere, from which each step draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.prototypes.draw import Draw
from vplface.prototypes.memories import spread
from vplface.prototypes.memories.noise import across, normal_rows
from vplface.prototypes.memory import Memory, ReadRows, State


@dataclass(frozen=True)
class Gaussian(Memory):
    """A draw from a normal distribution around the mean of the class, brought back to the sphere.

    With the mean direction μ_j and the shrunk variance σ_j² of ``spread``, R_j² = 1 − σ_j², and ε⊥ the part of a normal
    vector ε ~ N(0, 1) that is orthogonal to μ_j,

        draw = normalise(R_j·μ_j + σ_j·ε⊥/√(d−1))

    a projected normal distribution (Mardia and Jupp, "Directional Statistics", 2000). ‖ε⊥‖²/(d−1) has mean 1 and
    variance 2/(d−1), so that the mean of draw·μ_j is R_j, up to a share 3σ_j⁴/(4(d−1)) of it in leading order. Hence
    E‖draw − R_j·μ_j‖² = σ_j², the variance of the class around its mean, and E‖draw − μ_j‖² = 2 − 2·R_j.

    This is the distribution of the method, drawn again in every step. It helps if a class has too few pictures to show
    its spread, which is then estimated from all classes; it does not model variation along particular directions
    (see ``BorrowedSpread``). ε is a row of a fixed bank that is drawn from the seed; the row depends on seed, step
    and class id.

    Memory: 8 bytes per class more than the last feature, and 4·bank·d bytes once. Time: each step computes a draw for
    each class twice, a tile at a time, which reads d more numbers per class each time.

    Attributes:
        momentum: α in [0, 1) of the mean and its spread.
        prior: κ > 0, the degrees of freedom that all classes together count for in the variance of one.
        bank: different ε ≥ 1.

    Raises:
        ValueError: if a value lies outside its range.
    """

    per_class: ClassVar[tuple[str, ...]] = spread.PER_CLASS
    shared: ClassVar[tuple[str, ...]] = (*spread.SHARED, "memory_bank")

    momentum: float = 0.9
    prior: float = 8.0
    bank: int = 4096

    def __post_init__(self) -> None:
        spread.require_in_range(self.momentum, self.prior, self.bank)

    def empty(self, classes: int, dim: int, dtype: torch.dtype, device: torch.device, seed: int) -> State:
        """Nothing seen, and the bank drawn.

        Raises:
            ValueError: in one dimension, where there is no direction orthogonal to the mean.
        """
        if dim < 2:
            raise ValueError(f"{type(self).__name__} needs embeddings of at least 2 dimensions, got {dim}")
        bank = normal_rows(self.bank, dim, dtype, device, seed)
        return super().empty(classes, dim, dtype, device, seed) | spread.unknown(classes, dtype, device) | bank

    def exchanged(self, dim: int) -> int:
        """The length of its residual, and whether there is one."""
        return 2

    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Update the mean and spread of each class."""
        spread.pool_lengths(state, spread.follow(state, features, rows, delta_t, self.momentum), total)

    def reader(self, state: State, draw: Draw) -> ReadRows:
        """Draw the bank row that displaces each mean."""
        variance = spread.shrunk_variance(state, self.prior)
        length, deviation = (1.0 - variance).sqrt().unsqueeze(1), variance.sqrt().unsqueeze(1)
        bank, chosen = state["memory_bank"], draw.below(self.bank, stream=1, device=variance.device)

        def read_rows(memory: Tensor, rows: Int[Tensor, " rows"] | slice) -> Float[Tensor, "rows dim"]:
            mean = memory[rows].to(bank.dtype)
            noise = across(bank[chosen[rows]], mean) / math.sqrt(max(mean.shape[1] - 1, 1))
            return normalize(length[rows] * mean + deviation[rows] * noise, dim=1).to(memory.dtype)

        return read_rows
