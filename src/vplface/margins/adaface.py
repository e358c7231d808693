"""AdaFace: a margin that emphasises hard samples for good pictures, and easy samples for bad ones.

Kim, Jain, Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022 (arXiv 2204.00964).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import angle
from vplface.margins.margin import require_positive_scale
from vplface.margins.sample import SampleMargin, Samples
from vplface.once import once

_SHORTEST, _LONGEST = 1e-3, 100.0
_SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class AdaFace(SampleMargin):
    """Target logit s·(cos(θ − m·q) − m·(1 + q)), q in [−1, 1] the quality of a picture by its feature norm a.

        q = clip( h·(a − μ)/σ, −1, 1 )        a in [.001, 100], a constant
        μ ← α·mean(a) + (1 − α)·μ             σ ← α·std(a) + (1 − α)·σ

    So q = −1 is ArcFace, cos(θ + m); q = 0 CosFace, cosθ − m; q = 1 has a negative angular margin. θ − m·q is kept in
    [0, π], and has no gradient where it is cut off. μ and σ (unbiased) are those of the batches of all ranks, that of
    the step included; a batch of one sample leaves σ. They start at 20 and 100, and .001 is added to σ, as in the
    authors' code, which also keeps angles .001 away from 0 and π.

    Attributes:
        scale: s > 0.
        margin: m in [0, π/2].
        h: concentration, > 0: with .333 two thirds of a normal distribution of norms lie within ±.333.
        t_alpha: α in (0, 1], the weight of the newest batch.
    """

    scale: float = 64.0
    margin: float = 0.4
    h: float = 0.333
    t_alpha: float = 0.01

    uses_norms: ClassVar[bool] = True
    state: ClassVar[Mapping[str, float]] = {"norm_mean": 20.0, "norm_std": 100.0}

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 0.0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must lie in [0, π/2], got {self.margin}")
        if not 0.0 < self.h < math.inf:
            raise ValueError(f"h must be positive, got {self.h}")
        if not 0.0 < self.t_alpha <= 1.0:
            raise ValueError(f"t_alpha must lie in (0, 1], got {self.t_alpha}")

    def observe(self, samples: Samples) -> Float[Tensor, " batch"]:
        """The clamped norms a."""
        return samples.norms.detach().clamp(_SHORTEST, _LONGEST)

    def learn(self, state: Mapping[str, Tensor], observed: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        """Moving mean μ and deviation σ of the norms."""
        mean, std = state["norm_mean"], state["norm_std"]
        return {
            "norm_mean": mean.lerp(observed.mean(), self.t_alpha),
            "norm_std": std.lerp(observed.std(), self.t_alpha) if len(observed) > 1 else std,
        }

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """The quality q of each sample."""
        deviation = (self.observe(samples) - state["norm_mean"]) / (state["norm_std"] + _SMALLEST_SPREAD)
        return (self.h * deviation).clamp(-1.0, 1.0)

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """cos(θ − m·q) − m·(1 + q); q = 0 for an ordinary sample."""
        quality = cosine.new_zeros(()) if strength is None else strength
        shifted = (angle(cosine) - self.margin * quality).clamp(0.0, math.pi)
        target = shifted.cos() - self.margin * (1.0 + quality)
        return once(target, "AdaFace treats the quality of a sample, an estimate from its norm, as a constant")
