"""The loss before anything is learned, and the lowest that a scale allows."""

from __future__ import annotations

import math

import numpy as np
import torch

from vplface.margins import Margin
from vplface.margins.sample import sample_margin


def expected_first_loss(margin: Margin, classes: float, dim: int) -> float:
    """Loss for random directions: −s·t + log(e^{s·t} + (N−1)·e^{s²/2d}), where t is the margin's target at cosθ = 0.

    Cosines of random unit vectors have mean 0 and variance 1/d, so that E e^{s·cosθ} is near e^{s²/2d}. For a margin
    that changes the logits of other classes, the mean is computed by quadrature.
    """
    needs = sample_margin(margin)
    target = needs.target(torch.zeros(1, dtype=torch.float64))
    own = margin.scale * float(target)
    if not needs.changes_negatives:
        return float(np.logaddexp(own, math.log(classes - 1) + margin.scale**2 / (2 * dim))) - own
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(64))
    others = margin.scale * needs.negative((nodes / dim**0.5).clamp(-1.0, 1.0), target, None)
    return needs.expected_loss(own, others, weights / weights.sum(), classes)


def lowest_loss(scale: float, classes: float) -> float:
    """The lowest softmax loss of N classes of equal size with cosines times s: log(1 + (N−1)·e^{−s·N/(N−1)}).

    Wang, Xiang, Cheng, Yuille, "NormFace: L2 Hypersphere Embedding for Face Verification" (ACM Multimedia 2017),
    proposition 2, for many dimensions; a margin raises it.
    """
    return float(np.logaddexp(0.0, math.log(classes - 1) - scale * classes / (classes - 1)))
