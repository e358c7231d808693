"""SphereFace2: a binary classification for every class in place of one softmax over all.

Wen, Liu, Weller, Raj, Singh, "SphereFace2: Binary Classification is All You Need for Deep Face Recognition", ICLR 2022
(arXiv 2108.01513).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from vplface.margins.margin import MarginGradient, exact_or_detached, require_margin_gradient, require_positive_scale
from vplface.margins.sample import BinaryLoss, SampleMargin


@dataclass(frozen=True)
class SphereFace2(SampleMargin):
    """Logits s·(g(cosθ_y) − m) + b of the own class and s·(g(cosθ_j) + m) + b of the others, and for a sample the loss

        w/s · ( λ·log(1 + exp(−z_y)) + (1 − λ)·Σ_{j≠y} log(1 + exp(z_j)) )        g(c) = 2·((c + 1)/2)^t − 1

    This is SphereFace2-C, with an additive margin on cosines. b is learned, ``head.margin_bias``: with ``FusedSGD``,
    which updates only W, give it to the optimiser of the backbone, without weight decay. Its first value balances, at
    right angles, the attraction to the own class and the repulsion from the others.

    There is no sum over classes to share a probability, so ranks exchange no maximum, and ``sample_rate``,
    ``filter_bound`` and negatives of terms (``UNPG``) have no meaning: they are refused.

    Attributes:
        scale: s > 0, the paper's r.
        margin: m ≥ 0, in cosine.
        lam: λ in (0, 1), the weight of the own class.
        t: ≥ 1, spreads small cosines less than large ones.
        weight: w > 0 of the whole loss. These five are OpenSphere's, the authors' code.
        margin_gradient: ``"detached"`` takes dg/dcosθ to be 1, as OpenSphere does; ``"exact"`` differentiates g.
    """

    scale: float = 40.0
    margin: float = 0.4
    lam: float = 0.7
    t: float = 3.0
    weight: float = 50.0
    margin_gradient: MarginGradient = "detached"

    needs_all_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)
        require_margin_gradient(self.margin_gradient)
        if not 0.0 <= self.margin < math.inf:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        if not 0.0 < self.lam < 1.0:
            raise ValueError(f"lam must lie in (0, 1), got {self.lam}")
        if not 1.0 <= self.t < math.inf:
            raise ValueError(f"t must be at least 1, got {self.t}")
        if not 0.0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive, got {self.weight}")

    @property
    def bound(self) -> float:
        """1 + m, of logits without b."""
        return 1.0 + self.margin

    @property
    def changes_negatives(self) -> bool:
        """Every logit is spread, and shifted by the margin."""
        return True

    @property
    def binary_loss(self) -> BinaryLoss:
        """The binary loss with weights w and λ."""
        return BinaryLoss(self.weight, self.lam)

    def parameters(self, num_classes: int) -> Mapping[str, float]:
        """The bias b and its first value."""
        return {"bias": self.first_bias(num_classes)}

    def target(
        self, cosine: Float[Tensor, " batch"], strength: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The target g(cosθ) − m."""
        return self._spread(cosine) - self.margin

    def negative(
        self,
        cosine: Float[Tensor, "*shape"],
        target: Float[Tensor, "*samples"],
        strength: Float[Tensor, "*samples"] | None,
    ) -> Float[Tensor, "*shape"]:
        """The other logits g(cosθ_j) + m."""
        return self._spread(cosine) + self.margin

    def expected_loss(
        self, own: float, others: Float[Tensor, " nodes"], shares: Float[Tensor, " nodes"], classes: float
    ) -> float:
        """The binary loss, with the first b."""
        bias = self.first_bias(round(classes))
        other = (classes - 1) * float((softplus(others + bias) * shares).sum())
        same = float(softplus(torch.tensor(-own - bias, dtype=torch.float64)))
        return self.weight / self.scale * (self.lam * same + (1.0 - self.lam) * other)

    def first_bias(self, classes: int) -> float:
        """b with λ·σ(−z_y) = (1 − λ)·(N − 1)·σ(z_j) at cosθ = 0: in v = exp(z_j) a quadratic equation.

        With z = λ/((1−λ)(N−1)) and q = exp(z_y − z_j) = exp(−2sm) it reads q·v² + (1 − z)·v − z = 0.
        """
        z = self.lam / ((1.0 - self.lam) * (classes - 1))
        q = math.exp(-2.0 * self.scale * self.margin)
        root = math.sqrt((1.0 - z) ** 2 + 4.0 * q * z)
        # The same root of the equation in two forms, neither of which cancels.
        log_v = math.log(2.0 * z / (1.0 - z + root)) if z <= 1.0 else math.log((z - 1.0 + root) / 2.0) - math.log(q)
        bias: float = log_v - self.scale * (2.0 * 0.5**self.t - 1.0 + self.margin)
        return bias

    def _spread(self, cosine: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        spread = 2.0 * ((cosine + 1.0) / 2.0).clamp_min(0.0) ** self.t - 1.0
        return exact_or_detached(spread, cosine, self.margin_gradient)
