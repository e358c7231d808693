"""The mean of a class in place of its last feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vplface.prototypes.memory import Memory, State, number_type, read_rows, rows_here, write_rows


@dataclass(frozen=True)
class RunningMean(Memory):
    """The exponential mean of a class's features:  M_y ← normalise(α·M_y + (1 − α)·x).

    The empirical prototype of a class with a fixed weight (Wen et al., "A Discriminative Feature Learning Approach for
    Deep Face Recognition", ECCV 2016, keep such centres). Beside ``LastFeature`` it is a control: if it does as well,
    what helps is the mean of the class and not its variation. A memory that has died starts again, M_y ← x.

    It takes as many bytes per class, and as much time, as the last feature.

    Attributes:
        momentum: α in [0, 1); 0 is the last feature.

    Raises:
        ValueError: if it lies outside its range.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Update the mean of each class that was seen."""
        memory, timer = state["memory"], state["timer"]
        rows, x = rows_here(rows, features.to(number_type(memory.dtype)))
        mean = self.momentum * read_rows(memory, rows).to(x.dtype) + (1.0 - self.momentum) * x
        alive = read_rows(timer, rows).unsqueeze(1) > 0
        write_rows(memory, rows, normalize(torch.where(alive, mean, x), dim=1).to(memory.dtype))
        timer.sub_(1).clamp_(min=0)
        write_rows(timer, rows, timer.new_full(rows.shape, delta_t))
