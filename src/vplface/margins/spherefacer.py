"""SphereFace-R: multiplicative angular margins without SphereFace's piecewise function.

Liu, Wen, Raj, Singh, Weller, "SphereFace Revived: Unifying Hyperspherical Face Recognition", TPAMI 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import angle
from vplface.margins.margin import MarginGradient, exact_or_detached, require_margin_gradient, require_positive_scale
from vplface.margins.sample import SampleMargin
from vplface.margins.sphereface import require_multiple


@dataclass(frozen=True)
class SphereFaceR(SampleMargin):
    """Hard feature normalisation, unit features and a fixed s, with one of two margins.

    - v1: target logit s·cos(min(m·θ, π)), other classes s·cosθ_j
    - v2: target logit s·cosθ, other classes s·cos(θ_j/m), which lie nearer than they are

    With the paper's characteristic gradient detachment the margin enters the value of a logit and not its gradient:
    every logit counts as s·cosθ + constant. OpenSphere, the authors' code, also multiplies the loss by 50/s; scale the
    loss for that. Soft and no feature normalisation, where ‖x‖ takes the place of s, are not offered: a head has unit
    features.

    Attributes:
        scale: s > 0.
        margin: m ≥ 1. s and m are OpenSphere's.
        version: ``"v1"`` or ``"v2"``.
        margin_gradient: ``"detached"`` as in the paper, or ``"exact"``; then v1 has no gradient past θ = π/m.
    """

    scale: float = 30.0
    margin: float = 1.5
    version: Literal["v1", "v2"] = "v1"
    margin_gradient: MarginGradient = "detached"

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        require_margin_gradient(self.margin_gradient)
        require_multiple(self.margin)
        if self.version not in ("v1", "v2"):
            raise ValueError(f"version must be 'v1' or 'v2', got {self.version!r}")

    @property
    def changes_negatives(self) -> bool:
        """Version 2 changes the logits of other classes."""
        return self.version == "v2"

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """cos(min(m·θ, π)), or cosθ in v2."""
        if self.version == "v2":
            return cosine
        return exact_or_detached((self.margin * angle(cosine)).clamp(max=math.pi).cos(), cosine, self.margin_gradient)

    def negative(
        self,
        cosine: Float[Tensor, "*shape"],
        target: Float[Tensor, "*samples"],
        strength: Float[Tensor, "*samples"] | None,
    ) -> Float[Tensor, "*shape"]:
        """cosθ_j, or cos(θ_j/m) in v2."""
        if self.version == "v1":
            return cosine
        return exact_or_detached((angle(cosine) / self.margin).cos(), cosine, self.margin_gradient)
