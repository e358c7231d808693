"""Several features of a class; each step draws one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vplface.bounds import require_whole
from vplface.prototypes.draw import Draw
from vplface.prototypes.memory import Memory, ReadRows, State, read_rows, rows_here, write_rows


@dataclass(frozen=True)
class SeveralFeatures(Memory):
    """The last K features of a class, each with its own timer; a step injects a random live one.

    The draw is from the empirical distribution of the class, in which the last feature is one sample. In the steps
    between two pictures of a class, several of its features are injected instead of the same one. It helps if a class
    is seen more than once in Δt steps, and equals ``LastFeature`` otherwise.

    A feature takes the slot of the one with the fewest steps left. Memory: K times that of the last feature. Time: each
    step copies the chosen features, a tile at a time.

    Attributes:
        count: K ≥ 1.

    Raises:
        ValueError: if it is less than 1.
    """

    count: int = 4

    def __post_init__(self) -> None:
        require_whole(count=self.count)
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def empty(self, classes: int, dim: int, dtype: torch.dtype, device: torch.device, seed: int) -> State:
        """M [N, K, d] and T [N, K]."""
        return {
            "memory": torch.zeros(classes, self.count, dim, dtype=dtype, device=device),
            "timer": torch.zeros(classes, self.count, dtype=torch.int32, device=device),
        }

    def remember(
        self,
        state: State,
        features: Float[Tensor, "seen dim"],
        rows: Int[Tensor, " seen"],
        delta_t: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """M_yk ← x and T_yk ← Δt, where k has the smallest T_yk; all other timers count down."""
        memory, timer = state["memory"], state["timer"]
        rows, features = rows_here(rows, features)
        timer.sub_(1).clamp_(min=0)
        slot = read_rows(timer, rows).argmin(1)
        place = torch.where(rows >= 0, rows * self.count + slot, -1)
        write_rows(memory.view(-1, memory.shape[2]), place, features.to(memory.dtype))
        write_rows(timer.view(-1), place, timer.new_full(rows.shape, delta_t))

    def reader(self, state: State, draw: Draw) -> ReadRows:
        """A living slot of each class."""
        alive = state["timer"] > 0
        order = alive.cumsum(1)
        chosen = draw.below(order[:, -1], stream=1, device=alive.device) + 1
        slot = ((order == chosen.unsqueeze(1)) & alive).int().argmax(1)
        place = torch.arange(len(slot), device=slot.device) * self.count + slot
        return lambda memory, rows: memory.flatten(0, 1)[place[rows]]
