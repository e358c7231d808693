"""SphereFace: a multiplicative angular margin.

Liu, Wen, Yu, Li, Raj, Song, "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import angle
from vplface.margins.margin import MarginGradient, exact_or_detached, require_margin_gradient, require_positive_scale


@dataclass(frozen=True)
class SphereFace:
    """Target logit s·ψ(θ) with ψ(θ) = (−1)^k·cos(m·θ) − 2k on [kπ/m, (k+1)π/m], which falls over the whole of [0, π].

    The paper has ‖x‖ in place of s, an integer m, and mixes ψ with cosθ at first, to converge. Here features have unit
    length and s is fixed, as in Liu et al., "SphereFace Revived", TPAMI 2022, where m may be any number of at least 1.

    Attributes:
        scale: s > 0.
        margin: m ≥ 1. s and m are those of OpenSphere, the authors' code of 2022.
        margin_gradient: ``"exact"`` differentiates ψ: dψ/d cosθ = (−1)^k·m·sin(mθ)/sinθ. ``"detached"`` takes this
            derivative to be 1, which is the characteristic gradient detachment of 2022.
    """

    scale: float = 30.0
    margin: float = 1.5
    margin_gradient: MarginGradient = "exact"

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        require_margin_gradient(self.margin_gradient)
        require_multiple(self.margin)

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The piecewise target ψ(θ)."""
        multiplied = self.margin * angle(cosine)
        turns = (multiplied.detach() / math.pi).floor().clamp(max=math.ceil(self.margin) - 1)
        psi = (1.0 - 2.0 * (turns % 2.0)) * multiplied.cos() - 2.0 * turns
        return exact_or_detached(psi, cosine, self.margin_gradient)


def require_multiple(margin: float) -> None:
    """Raise ValueError unless the margin is at least 1."""
    if not 1.0 <= margin < math.inf:
        raise ValueError(f"margin multiplies an angle and must be at least 1, got {margin}")
