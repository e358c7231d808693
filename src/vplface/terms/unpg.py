"""UNPG: other people of the batch join the negatives of the softmax.

Jung, Lee, Oh, Park, Park, Son, "Unified Negative Pair Generation toward Well-discriminative Feature Space for Face
Recognition", BMVC 2022 (arXiv 2203.11593).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vplface.terms.term import Batch, BoundTerm, cosines


@dataclass(frozen=True)
class UNPG:
    """Negatives of a metric loss (sample to sample) in the denominator of a classification loss (sample to class).

    With N_i the samples of the batch that are not of the class of sample i, less pairs that are taken for noise:

        L = mean over i of −log( exp(s·t_i) / (exp(s·t_i) + Σ_{j≠y_i} exp(s·cosθ_ij) + Σ_{k∈N_i} exp(s·x_i·x_k)) )

    A pair is noise if its cosine lies outside the whiskers of a box plot of all negative pairs of the batch,
    [Q1 − w·(Q3 − Q1), Q3 + w·(Q3 − Q1)]: one person under two labels is an outlier at the top. The filter has no
    gradient; both samples of a pair have.

    The union of negatives and a filter by the box plot are the paper's. Ours: each sample meets its own pairs, not all
    pairs of the batch; quartiles are interpolated linearly; and w.

    Attributes:
        whisker: w ≥ 0. Ours: 1.5, Tukey's, as everywhere in statistics. ``inf`` keeps all pairs.
    """

    whisker: float = 1.5

    def __post_init__(self) -> None:
        if not self.whisker >= 0.0:
            raise ValueError(f"whisker must not be negative, got {self.whisker}")

    def bind(self, classes: int, dim: int) -> _UNPG:
        """There is no state."""
        return _UNPG(self)


class _UNPG(BoundTerm):
    def __init__(self, options: UNPG) -> None:
        super().__init__()
        self.options = options

    def negatives(self, batch: Batch) -> Float[Tensor, " batch"]:
        cosine = cosines(batch.features, batch.features)
        others = batch.labels.unsqueeze(1) != batch.labels
        kept = others & self._within_whiskers(cosine.detach(), others)
        some = kept.any(1)
        logits = (batch.scale * cosine).masked_fill(~kept & some.unsqueeze(1), -torch.inf)
        self.value = kept.sum() / others.sum().clamp_min(1)
        # Of no logits at all logsumexp is −∞, but its gradient is NaN.
        return torch.where(some, logits.logsumexp(1), -torch.inf)

    def _within_whiskers(
        self, cosine: Float[Tensor, "batch batch"], others: Bool[Tensor, "batch batch"]
    ) -> Bool[Tensor, "batch batch"]:
        if len(cosine) == 1 or self.options.whisker == torch.inf:
            return others
        first, second = torch.triu_indices(len(cosine), len(cosine), 1, device=cosine.device)
        are_pairs = others[first, second]
        pairs, count = torch.where(are_pairs, cosine[first, second], torch.inf).sort().values, are_pairs.sum()
        low, high = _quantile(pairs, count, 0.25), _quantile(pairs, count, 0.75)
        reach = self.options.whisker * (high - low)
        return (cosine >= low - reach) & (cosine <= high + reach)


def _quantile(ascending: Float[Tensor, " n"], count: Int[Tensor, ""], share: float) -> Float[Tensor, 1]:
    """Interpolated linearly, as torch.quantile does, which takes no more than 2²⁴ numbers.

    Args:
        ascending: numbers, the first ``count`` of which are meant.
        count: of the numbers.
        share: of them that lie below.
    """
    last = (count - 1).clamp_min(0).unsqueeze(0)
    place = share * last.double()
    first = place.long()
    between = (place - first).to(ascending.dtype)
    return torch.lerp(ascending[first], ascending[(first + 1).minimum(last)], between)
