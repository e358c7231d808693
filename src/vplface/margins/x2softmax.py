"""X2-Softmax: a parabola of the angle in place of its cosine.

Xu, Liu, Zhang, Si, Li, Shi, Wang, Gong, "X2-Softmax: Margin Adaptive Loss Function for Face Recognition", Expert
Systems with Applications 2024 (arXiv 2312.05281).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import angle
from vplface.margins.margin import MarginGradient, exact_or_detached, require_margin_gradient, require_positive_scale


@dataclass(frozen=True)
class X2Softmax:
    """Target logit s·(a·(θ − h)² + k), so that the margin grows with the angle.

    The parabola opens downwards and its vertex lies at no positive angle, so the target falls over the whole of [0, π].

    Attributes:
        scale: s > 0.
        a: curvature, < 0.
        h: angle of the vertex, ≤ 0, radians.
        k: height of the vertex; k + a·h², the target at θ = 0, may not exceed 1. The text of the paper was not
            available: a, h and k are those of a command line published with the authors' training code.
        margin_gradient: ``"exact"`` differentiates the parabola: d target/d cosθ = −2a·(θ − h)/sinθ. ``"detached"``
            takes this derivative to be 1, as the authors' code does.
    """

    scale: float = 64.0
    a: float = -0.9
    h: float = 0.0
    k: float = 0.65
    margin_gradient: MarginGradient = "exact"

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        require_margin_gradient(self.margin_gradient)
        if not -math.inf < self.a < 0.0:
            raise ValueError(f"a must be negative, or the target would rise with the angle, got {self.a}")
        if not -math.inf < self.h <= 0.0:
            raise ValueError(f"h must not be positive, or the target would rise up to there, got {self.h}")
        if not -math.inf < self.k + self.a * self.h**2 <= 1.0:
            raise ValueError(
                f"k + a·h² is the target at θ = 0 and must be a cosine of at most 1, got {self.k + self.a * self.h**2}"
            )

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """a·(θ − h)² + k."""
        parabola = self.a * (angle(cosine) - self.h) ** 2 + self.k
        return exact_or_detached(parabola, cosine, self.margin_gradient)
