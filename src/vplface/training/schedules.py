"""Learning rate over a run: a warm-up, then cosine, step or polynomial decay, as a factor of the base rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRate:
    """The factor (t+1)/w in the steps t < w of the warm-up, then a function of the progress p = (t−w)/(n−w).

    cosine (1 + cos πp)/2; polynomial (1 − p)^power; step γ^(milestones passed); constant 1.

    Attributes:
        name: name of the decay.
        steps: n, length of the run.
        warmup: w, steps in which the rate rises linearly.
        milestones: steps at which ``step`` multiplies by γ.
        gamma: γ.
        power: of ``polynomial``.
    """

    name: Literal["cosine", "step", "polynomial", "constant"]
    steps: int
    warmup: int = 0
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    power: float = 2.0

    def factor(self, step: int) -> float:
        """The factor of the base learning rate in a step (counted from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.name == "polynomial":
            return float((1.0 - progress) ** self.power)
        if self.name == "step":
            return float(self.gamma ** sum(step >= milestone for milestone in self.milestones))
        return 1.0
