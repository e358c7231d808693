"""A class with the variation of another one around its own mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.prototypes.draw import Draw
from vplface.prototypes.memories import spread
from vplface.prototypes.memory import Memory, ReadRows, State, number_type, rows_here, write_rows


@dataclass(frozen=True)
class BorrowedSpread(Memory):
    """The mean of the class, displaced as a picture of some class was displaced from the mean of its own.

    The last residuals r of all classes stay in a bank, of which each class draws one a step. With μ_j, σ_j² and σ² of
    ``spread`` and R_j² = 1 − σ_j²,

        draw = normalise(R_j·μ_j + (σ_j/σ)·r)

    Pose, light and age displace the features of different people in much the same directions, and deep classes show
    more of them than a shallow one can: the feature transfer of Yin, Yu, Sohn, Liu and Chandraker, "Feature Transfer
    Learning for Face Recognition With Under-Represented Data", CVPR 2019. As with ``Gaussian``,
    E‖draw − R_j·μ_j‖² = σ_j², as far as residuals are orthogonal to μ_j, but along directions in which features really
    vary. Until a class has been seen twice in Δt steps there is no residual, and the mean is injected.

    Memory: 8 bytes per class more than the last feature, and 4·bank·d bytes once. Time: each step computes a draw for
    each class twice, a tile at a time, which reads d more numbers per class each time; it copies the bank, and ranks
    add up the residuals of the batch, B × d numbers.

    Attributes:
        momentum: α in [0, 1) of the mean and its spread.
        prior: κ > 0, the degrees of freedom that all classes together count for in the variance of one.
        bank: residuals that are kept, ≥ 1.

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
        """Nothing seen, and a bank without residuals."""
        bank = {"memory_bank": torch.zeros(self.bank, dim, dtype=number_type(dtype), device=device)}
        return super().empty(classes, dim, dtype, device, seed) | spread.unknown(classes, dtype, device) | bank

    def exchanged(self, dim: int) -> int:
        """Its residual, and whether there is one."""
        return dim + 1

    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """See ``spread``; new residuals take the place of the oldest."""
        found = total(spread.follow(state, features, rows, delta_t, self.momentum))
        residuals, known = found[:, :-1], found[:, -1] > 0
        number = known.cumsum(0)
        latest = known & (number > number[-1:] - self.bank)
        place = torch.where(latest, (state["memory_residuals"] + number - 1) % self.bank, -1)
        spread.pool(state, residuals.square().sum(1), known)
        bank = state["memory_bank"].clone()  # earlier steps may still need the old one
        write_rows(bank, *rows_here(place, residuals))
        state["memory_bank"] = bank

    def reader(self, state: State, draw: Draw) -> ReadRows:
        """Draw the residual that is added to each mean."""
        variance = spread.shrunk_variance(state, self.prior)
        length = (1.0 - variance).sqrt().unsqueeze(1)
        share = (variance / state["memory_shared_variance"].clamp_min(1e-12)).sqrt().unsqueeze(1)
        bank = state["memory_bank"]
        chosen = draw.below(state["memory_residuals"].clamp(max=self.bank), stream=1, device=bank.device)

        def read_rows(memory: Tensor, rows: Int[Tensor, " rows"] | slice) -> Float[Tensor, "rows dim"]:
            mean = length[rows] * memory[rows].to(bank.dtype)
            return normalize(mean + share[rows] * bank[chosen[rows]], dim=1).to(memory.dtype)

        return read_rows
