"""XBM: pairs of the batch with a queue of past samples.

Wang, Zhang, Huang, Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.once import once
from vplface.terms.queue import Queue, require_size
from vplface.terms.term import Batch, BoundTerm, cosines, require_positive, require_steps


@dataclass(frozen=True)
class XBM:
    """The contrastive loss of each sample with all samples in memory, added to the classification loss.

    The memory holds the batch and the samples before it, as constants. With cosθ_ij that of sample i of the batch and
    sample j of the memory, itself left out:

        L = mean over i of  Σ_{j: y_j = y_i} [m⁺ − cosθ_ij]₊ + Σ_{j: y_j ≠ y_i} [cosθ_ij − m⁻]₊

    The memory with the batch in it and sums over pairs are the paper's; ours: a sample is not paired with itself.
    Most pairs of settled features lie below m⁻ and count for nothing, but the sums grow with the memory while features
    are crowded; therefore there is ``start``.

    Attributes:
        size: samples in the queue, d·4 + 8 bytes each. Ours: 8192; the paper goes up to whole data sets.
        positive_margin: m⁺. 1 pulls until features coincide.
        negative_margin: m⁻. Ours: 0.5, a threshold that pairs of two people seldom pass.
        start: steps before the loss is added; the queue fills from the first. Ours: 1000, until features drift slowly.
        weight: of this loss beside the classification loss. Ours: 1.
    """

    size: int = 8192
    positive_margin: float = 1.0
    negative_margin: float = 0.5
    start: int = 1000
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_size(self.size)
        require_steps("start", self.start)
        require_positive("weight", self.weight)
        for name in ("positive_margin", "negative_margin"):
            if not -1.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be a cosine in [-1, 1], got {getattr(self, name)}")

    def bind(self, classes: int, dim: int) -> _XBM:
        """Bind the term to a head, with its queue."""
        return _XBM(self, dim)


class _XBM(BoundTerm):
    def __init__(self, options: XBM, dim: int) -> None:
        super().__init__()
        self.options = options
        self.queue = Queue(options.size, dim)

    def loss(self, batch: Batch) -> Float[Tensor, ""] | None:
        if batch.step < self.options.start:
            return None
        count = len(batch.features)
        cosine = cosines(batch.features, torch.cat([batch.features.detach(), self.queue.rows]))
        cosine = once(cosine, "XBM treats the second sample of each pair as a constant")
        same = batch.labels.unsqueeze(1) == torch.cat([batch.labels, self.queue.labels])
        pulled = (self.options.positive_margin - cosine).clamp_min(0.0)
        pushed = (cosine - self.options.negative_margin).clamp_min(0.0)
        pairs = torch.where(same, pulled, pushed)
        itself = torch.eye(count, pairs.shape[1], dtype=torch.bool, device=pairs.device)
        loss = pairs.masked_fill(itself, 0.0).sum() / count
        self.value = loss.detach()
        return self.options.weight * loss

    def remember(self, features: Tensor, labels: Tensor, rows: Tensor) -> None:
        self.queue.add(features, labels)
