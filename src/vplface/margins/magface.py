"""MagFace: the margin grows with the feature norm, and a regulariser rewards large norms.

Meng, Zhao, Huang, Zhou, "MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR 2021
(arXiv 2103.06627).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import add_angle
from vplface.margins.margin import require_positive_scale
from vplface.margins.sample import SampleMargin, Samples


@dataclass(frozen=True)
class MagFace(SampleMargin):
    """Target logit s·cos(θ + m(a)), a = ‖x‖ before normalisation cut to [l_a, u_a], and λ_g·g(a) added to the loss.

        m(a) = l_m + (u_m − l_m)·(a − l_a)/(u_a − l_a)        g(a) = 1/a + a/u_a²

    The norm has a gradient through both: the margin shortens features; g, which decreases up to u_a, lengthens them,
    most of all those of easy samples. Norms outside [l_a, u_a] have none, as in the authors' code. Past
    θ = π − m(a) the target falls back as that of ``ArcFace``; the authors' code does so by choice, and has no margin
    where cosθ ≤ 0 by default. g is part of the loss in eval mode too.

    Attributes:
        scale: s > 0.
        l_a: shortest norm, > 0.
        u_a: longest norm, > l_a.
        l_m: margin of the shortest, in [0, u_m], radians.
        u_m: margin of the longest, at most π/2.
        lambda_g: λ_g ≥ 0. These six are those of the authors' training script.
    """

    scale: float = 64.0
    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    lambda_g: float = 35.0

    uses_norms: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if not 0.0 < self.l_a < self.u_a < math.inf:
            raise ValueError(f"l_a and u_a are norms with 0 < l_a < u_a, got {self.l_a} and {self.u_a}")
        if not 0.0 <= self.l_m <= self.u_m <= math.pi / 2:
            raise ValueError(f"l_m and u_m are margins with 0 ≤ l_m ≤ u_m ≤ π/2, got {self.l_m} and {self.u_m}")
        if not 0.0 <= self.lambda_g < math.inf:
            raise ValueError(f"lambda_g must not be negative, got {self.lambda_g}")

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """The margin m(a) of each sample."""
        share = (samples.norms.clamp(self.l_a, self.u_a) - self.l_a) / (self.u_a - self.l_a)
        return self.l_m + (self.u_m - self.l_m) * share

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """cos(θ + m(a)); for an ordinary sample the margin is half way between l_m and u_m."""
        half_way = torch.full_like(cosine, (self.l_m + self.u_m) / 2)
        return add_angle(cosine, half_way if strength is None else strength)

    def penalty(self, norms: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """λ_g times the mean of g(a)."""
        length = norms.clamp(self.l_a, self.u_a)
        return self.lambda_g * (length.reciprocal() + length / self.u_a**2).mean()
