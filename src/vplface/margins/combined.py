"""The combined margin cos(m1·θ + m2) − m3 of SphereFace, ArcFace and CosFace (Deng et al., "ArcFace", section 2.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import angle, sine
from vplface.margins.margin import require_positive_scale


@dataclass(frozen=True)
class CombinedMargin:
    """Target logit s·(cos(m1·θ + m2) − m3) while m1·θ + m2 ≤ π, and s·(cosθ − m2·sin m2 − m3) past it.

    m1 = 1, m3 = 0 is ArcFace, fallback included; m1 = 1, m2 = 0 is CosFace.

    Attributes:
        scale: s > 0.
        m1: multiplicative angular margin, ≥ 1.
        m2: additive angular margin in [0, π/2], radians.
        m3: additive cosine margin, ≥ 0.
    """

    scale: float = 64.0
    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 1.0 <= self.m1 < math.inf:
            raise ValueError(f"m1 must be at least 1, got {self.m1}")
        if not 0.0 <= self.m2 <= math.pi / 2:
            raise ValueError(f"m2 must lie in [0, π/2] radians, got {self.m2}")
        if not 0.0 <= self.m3 < math.inf:
            raise ValueError(f"m3 must not be negative, got {self.m3}")

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """cos(m1·θ + m2) − m3, or cosθ − m2·sin m2 − m3 where m1·θ + m2 > π."""
        sin_m1, cos_m1 = self._multiply_angle(cosine)
        angular = cos_m1 * math.cos(self.m2) - sin_m1 * math.sin(self.m2)
        past = cosine < math.cos((math.pi - self.m2) / self.m1)
        return torch.where(past, cosine - self.m2 * math.sin(self.m2), angular) - self.m3

    def _multiply_angle(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """(sin m1·θ, cos m1·θ)."""
        if self.m1 == 1.0:
            return sine(cosine), cosine
        theta = angle(cosine)
        return torch.sin(self.m1 * theta), torch.cos(self.m1 * theta)
