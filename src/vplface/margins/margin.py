"""What a margin is to the rest of the house."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class Margin(Protocol):
    """A margin makes the target harder: it maps the cosine between a sample and its own class to a smaller one."""

    @property
    def scale(self) -> float:
        """s, by which every cosine is multiplied to become a logit."""

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The cosine of each sample with its own class, after the margin, before the scale."""


def require_positive_scale(scale: float) -> None:
    """Raise ValueError unless the scale is a positive number."""
    if not scale > 0.0:
        raise ValueError(f"scale must be positive, got {scale}")
