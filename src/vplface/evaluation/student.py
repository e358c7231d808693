"""The interval of a mean by Student's t distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vplface.errors import import_extra

special: Any = import_extra("scipy.special", "train")  # scipy.stats takes a second to import


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean: x̄ ± t·s/√k, with k − 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval of a mean needs at least two values, got {count}")
    mean = float(np.mean(values))
    t = float(special.stdtrit(count - 1, 0.975))
    margin = t * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - margin, mean + margin
