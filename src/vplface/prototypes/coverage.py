"""Coverage: the share of classes whose memory is alive, measured and expected."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from torch import Tensor


def coverage(timer: Int[Tensor, " classes"] | None) -> float:
    """The share of classes with T_j > 0; 0 before the memory exists."""
    return 0.0 if timer is None else float((timer > 0).double().mean())


def expected_coverage(class_sizes: Int[np.ndarray, " classes"], batch_size: int, delta_t: int) -> float:
    """The coverage that shuffled sampling will reach: the mean over classes of 1 − exp(−p_j·B·Δt).

    Args:
        class_sizes: n_j, pictures per class; p_j = n_j/Σn.
        batch_size: B, over all ranks.
        delta_t: Δt, steps.
    """
    share = class_sizes / class_sizes.sum()
    return float(np.mean(-np.expm1(-share * batch_size * delta_t)))
