"""ArcFace: an additive angular margin (Deng et al., "ArcFace", CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import sine
from vplface.margins.margin import MarginGradient, exact_or_detached, require_margin_gradient, require_positive_scale


@dataclass(frozen=True)
class ArcFace:
    """Target logit s·cos(θ + m) = s·(cosθ·cos m − sinθ·sin m) while θ ≤ π − m.

    Past θ = π − m, where cos(θ + m) would rise again, the field's convention is followed: cosθ − m·sin m. The two do
    not meet there: the target jumps from −1 to −cos m − m·sin m (for m = .5 a fall of .12).

    Attributes:
        scale: s > 0.
        margin: m in [0, π/2], radians.
        margin_gradient: ``"exact"`` differentiates the margin: d target/d cosθ = sin(θ+m)/sinθ. ``"detached"`` takes
            this derivative to be 1, which is what training code that applies the margin without gradient tracking
            does; the loss is the same.
    """

    scale: float = 64.0
    margin: float = 0.5
    margin_gradient: MarginGradient = "exact"

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 0.0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must lie in [0, π/2] radians, got {self.margin}")
        require_margin_gradient(self.margin_gradient)

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """cos(θ + m), or cosθ − m·sin m past π − m."""
        m = self.margin
        angular = cosine * math.cos(m) - sine(cosine) * math.sin(m)
        target = torch.where(cosine >= -math.cos(m), angular, cosine - m * math.sin(m))
        return exact_or_detached(target, cosine, self.margin_gradient)
