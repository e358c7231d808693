"""The inputs of a margin softmax: a batch, the prototypes, and all that changes the loss."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vplface.margins import Margin
from vplface.prototypes import Injection
from vplface.ranks import Ranks


@dataclass(frozen=True)
class SoftmaxProblem:
    """The inputs of ``reference.margin_softmax``, by the same names.

    Attributes:
        features: x, unit rows.
        labels: y, row numbers of ``weight``; −1 where the class lives on another rank.
        weight: W, rows of any length; [N, d], or [N, K, d] with K sub-centres of each class.
        margin: changes the target cosine and gives the scale s.
        injection: memory to mix into the prototypes; None for the plain softmax.
        strength: m_i of each sample, for a margin that has one; for a margin that changes the loss the bias b.
        threshold: other classes with a larger cosine are left out of the softmax of a sample; None for none.
        negatives: one more logit for each sample, at most s + log B; −∞ for nothing, None for no sample.
        absent: rows of ``weight`` that count for nothing, with any backend but the definition; None for none.
        ranks: who holds the other classes; None if there are none.
    """

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    weight: Float[Tensor, "classes ... dim"]
    margin: Margin
    injection: Injection | None = None
    strength: Float[Tensor, " batch"] | None = None
    threshold: float | None = None
    negatives: Float[Tensor, " batch"] | None = None
    absent: Bool[Tensor, " classes"] | None = None
    ranks: Ranks | None = None

    @property
    def subcenters(self) -> int:
        """K, the prototypes of a class."""
        return 1 if self.weight.ndim == 2 else self.weight.shape[1]

    @property
    def classes(self) -> int:
        """The classes of all ranks."""
        return len(self.weight) if self.ranks is None else self.ranks.classes
