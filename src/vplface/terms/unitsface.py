"""UniTSFace: pairs of samples on either side of one learned threshold.

Li, Jia, Zhou, Shen, Duan, "UniTSFace: Unified Threshold Integrated Sample-to-Sample Loss for Face Recognition",
NeurIPS 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from vplface.terms.term import Batch, BoundTerm, cosines, require_positive


@dataclass(frozen=True)
class UniTSFace:
    """The unified-threshold sample-to-sample loss (USS), added to the classification loss.

    With P_i the other samples of the class of sample i in the batch, N_i those of other classes, and b learned:

        L = mean over i of  mean over j ∈ P_i of log(1 + exp(b − γ·(cosθ_ij − m)))
                            + log(1 + Σ_{j∈N_i} exp(γ·cosθ_ij − b))

    so that t = b/γ separates pairs of one person from pairs of two, with one value for all identities. We could
    not read the full text: these two parts and the single b are the paper's, but their exact form may differ. Ours:
    the mean over P_i where a batch holds several positives of a sample, and nothing for a sample that has none. Batches
    should hold several pictures of an identity, or only the second part works.

    Attributes:
        scale: γ > 0; 64 in the paper's figure 1.
        margin: m ≥ 0, on positive pairs. The paper has the loss without and with an auxiliary margin; ours: without.
        threshold: t at the start, b = γ·t. Ours: 0.5, near the .4896 that was learned in the paper's figure 1.
        weight: of this loss beside the classification loss. Ours: 1.

    b is a parameter of the head, ``head.terms["unitsface"].bias``: with ``FusedSGD``, which updates only W, give it to
    the optimiser of the backbone, without weight decay.
    """

    scale: float = 64.0
    margin: float = 0.0
    threshold: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)
        require_positive("weight", self.weight)
        if not 0.0 <= self.margin < math.inf:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be a cosine in [-1, 1], got {self.threshold}")

    def bind(self, classes: int, dim: int) -> _UniTSFace:
        """Bind the term to a head, with its bias b."""
        return _UniTSFace(self)


class _UniTSFace(BoundTerm):
    def __init__(self, options: UniTSFace) -> None:
        super().__init__()
        self.options = options
        self.bias = nn.Parameter(torch.tensor(options.scale * options.threshold))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        scale = self.options.scale
        cosine = cosines(batch.features, batch.features)
        same = batch.labels.unsqueeze(1) == batch.labels
        pairs = same.clone().fill_diagonal_(False)
        bias = self.bias.to(cosine.dtype)
        pulled = softplus(bias - scale * (cosine - self.options.margin)) * pairs
        pulled = pulled.sum(1) / pairs.sum(1).clamp_min(1)
        pushed = (scale * cosine - bias).masked_fill(same, -torch.inf)
        pushed = torch.cat([pushed.new_zeros(len(pushed), 1), pushed], 1).logsumexp(1)
        loss = (pulled + pushed).mean()
        self.value = loss.detach()
        return self.options.weight * loss
