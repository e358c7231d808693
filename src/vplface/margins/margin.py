"""The interface of margins, and checks of their options."""

from __future__ import annotations

import math
from typing import Literal, Protocol, TypeAlias

from jaxtyping import Float
from torch import Tensor

from vplface.once import once

MarginGradient: TypeAlias = Literal["exact", "detached"]
"""Whether a margin is differentiated, or treated as a constant that is subtracted from the cosine."""


class Margin(Protocol):
    """A margin makes the target harder: it maps the cosine between a sample and its own class to a smaller one."""

    @property
    def scale(self) -> float:
        """s, by which every cosine is multiplied to become a logit."""

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The cosine of each sample with its own class, after the margin, before the scale."""


def require_positive_scale(scale: float) -> None:
    """Raise ValueError unless the scale is a positive number."""
    if not 0.0 < scale < math.inf:
        raise ValueError(f"scale must be positive, got {scale}")


def require_margin_gradient(choice: str) -> None:
    """Raise ValueError unless ``choice`` is 'exact' or 'detached'."""
    if choice not in ("exact", "detached"):
        raise ValueError(f"margin_gradient must be 'exact' or 'detached', got {choice!r}")


def exact_or_detached(
    margined: Float[Tensor, "*shape"], cosine: Float[Tensor, "*shape"], choice: MarginGradient
) -> Float[Tensor, "*shape"]:
    """``margined``, with its own derivative or with that of the cosine, 1."""
    if choice == "exact":
        return margined
    return once(cosine + (margined - cosine).detach(), "margin_gradient='detached' treats the margin as a constant")
