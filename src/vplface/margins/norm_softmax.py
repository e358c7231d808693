"""NormSoftmax: no margin, the plain loss of the VPL paper (Wang et al., "NormFace", ACM MM 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vplface.margins.margin import require_positive_scale


@dataclass(frozen=True)
class NormSoftmax:
    """logit = s·cosθ for every class.

    Attributes:
        scale: s > 0.
    """

    scale: float = 64.0

    def __post_init__(self) -> None:
        require_positive_scale(self.scale)

    def target(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The cosine cosθ, unchanged."""
        return cosine
