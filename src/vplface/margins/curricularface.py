"""CurricularFace: hard negatives count less early in training, and more later.

Huang, Wang, Tai, Liu, Shen, Li, Li, Huang, "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
Recognition", CVPR 2020 (arXiv 2004.00288).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.arcface import ArcFace
from vplface.margins.margin import require_positive_scale
from vplface.margins.sample import SampleMargin, Samples
from vplface.once import once


@dataclass(frozen=True)
class CurricularFace(SampleMargin):
    """ArcFace's target t_i = cos(θ + m), and of other classes those that are nearer than it are reweighted:

        N(cosθ_j) = cosθ_j                   where cosθ_j ≤ t_i
                    cosθ_j·(t + cosθ_j)      where cosθ_j > t_i
        t ← (1 − α)·t + α·mean(cosθ)         over the samples of all ranks, those of the step included; 0 at first

    t lies in [−1, 1], so no logit of another class exceeds 2s: small problems apart, sums of exponentials need their
    running maximum. t and the choice of hard negatives are constants in the gradient. Past θ = π − m the target, which
    defines the hard negatives, falls back as in ``ArcFace``.

    Attributes:
        scale: s > 0.
        margin: m in [0, π/2], radians.
        t_alpha: α in (0, 1], the weight of the newest batch. The paper's momentum is 1 − α = .99.
    """

    scale: float = 64.0
    margin: float = 0.5
    t_alpha: float = 0.01

    state: ClassVar[Mapping[str, float]] = {"t": 0.0}

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 0.0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must lie in [0, π/2] radians, got {self.margin}")
        if not 0.0 < self.t_alpha <= 1.0:
            raise ValueError(f"t_alpha must lie in (0, 1], got {self.t_alpha}")

    @property
    def bound(self) -> float:
        """|cosθ·(t + cosθ)| ≤ 2."""
        return 2.0

    @property
    def changes_negatives(self) -> bool:
        """Logits of hard negatives are reweighted."""
        return True

    def observe(self, samples: Samples) -> Float[Tensor, " batch"]:
        """The cosines cosθ of the samples."""
        return samples.cosines()

    def learn(self, state: Mapping[str, Tensor], observed: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        """The moving mean t of the cosines."""
        return {"t": state["t"].lerp(observed.mean().to(state["t"]), self.t_alpha)}

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """t, the same for all."""
        return state["t"].expand(len(samples.norms))

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The target t_i of ArcFace."""
        return ArcFace(self.scale, self.margin).target(cosine)

    def negative(
        self,
        cosine: Float[Tensor, "*shape"],
        target: Float[Tensor, "*samples"],
        strength: Float[Tensor, "*samples"] | None,
    ) -> Float[Tensor, "*shape"]:
        """The reweighted cosine N; t = 0 for an ordinary sample, as at the start."""
        pace = 0.0 if strength is None else strength
        reweighted = torch.where(cosine > target, cosine * (pace + cosine), cosine)
        return once(reweighted, "CurricularFace treats t, a mean of cosines, as a constant")
