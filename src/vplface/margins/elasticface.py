"""ElasticFace: a margin drawn from a normal distribution for each sample of each step.

Boutros, Damer, Kirchbuchner, Kuijper, "ElasticFace: Elastic Margin Loss for Deep Face Recognition", CVPR Workshops 2022
(arXiv 2109.09416).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.margins.angle import add_angle
from vplface.margins.margin import require_positive_scale
from vplface.margins.sample import SampleMargin, Samples

_PUBLISHED = {
    ("arc", False): (0.5, 0.05),
    ("arc", True): (0.5, 0.0175),
    ("cos", False): (0.35, 0.05),
    ("cos", True): (0.35, 0.02),
}
"""m and σ of the authors' published configurations."""


@dataclass(frozen=True)
class ElasticFace(SampleMargin):
    """Target logit s·cos(θ + m_i) (ElasticFace-Arc) or s·(cosθ − m_i) (-Cos) with m_i ~ N(m, σ²).

    ElasticFace+ gives the largest of the margins drawn for a batch to the sample that is farthest from its class, the
    smallest to the nearest. Past θ = π − m_i the Arc form falls back as ``ArcFace`` does.

    The draw depends on the head's seed and the step, and is the same for any number of ranks. In eval mode and under
    ``no_grad`` every sample has the margin m. ElasticFace+ sorts the batch of all ranks; several micro-batches
    are sorted separately.

    Attributes:
        scale: s > 0.
        kind: ``"arc"`` or ``"cos"``.
        plus: ElasticFace+.
        margin: m ≥ 0. None: 0.5 for Arc, 0.35 for Cos, as published.
        sigma: σ ≥ 0. None: 0.05, for ElasticFace+ 0.0175 (Arc) or 0.02 (Cos), as the authors' configuration has it.
    """

    scale: float = 64.0
    kind: Literal["arc", "cos"] = "arc"
    plus: bool = False
    margin: float | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        if (self.kind, self.plus) not in _PUBLISHED:
            raise ValueError(f"kind must be 'arc' or 'cos' and plus a boolean, got {self.kind!r} and {self.plus!r}")
        for name, value in (("margin", self.margin), ("sigma", self.sigma)):
            if value is not None and not 0.0 <= value < math.inf:
                raise ValueError(f"{name} must not be negative, got {value}")

    def strength(self, samples: Samples, state: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """The margin m_i that is drawn for each sample."""
        mean, sigma = self._mean_and_sigma
        drawn = mean + sigma * samples.noise()
        if not self.plus:
            return drawn
        nearest_first = samples.cosines().argsort(descending=True, stable=True)
        return torch.empty_like(drawn).index_copy(0, nearest_first, drawn.sort().values)

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """cos(θ + m_i) or cosθ − m_i."""
        drawn = torch.full_like(cosine, self._mean_and_sigma[0]) if strength is None else strength
        return add_angle(cosine, drawn) if self.kind == "arc" else cosine - drawn

    @property
    def _mean_and_sigma(self) -> tuple[float, float]:
        mean, sigma = _PUBLISHED[self.kind, self.plus]
        return mean if self.margin is None else self.margin, sigma if self.sigma is None else self.sigma
