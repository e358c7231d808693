"""CosFace: an additive cosine margin (Wang et al., "CosFace: Large Margin Cosine Loss", CVPR 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vplface.margins.margin import require_positive_scale


@dataclass(frozen=True)
class CosFace:
    """Target logit s·(cosθ − m).

    Attributes:
        scale: s > 0.
        margin: m ≥ 0, in cosine.
    """

    scale: float = 64.0
    margin: float = 0.35

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 0.0 <= self.margin < math.inf:
            raise ValueError(f"margin must not be negative, got {self.margin}")

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The target cosθ − m."""
        return cosine - self.margin
