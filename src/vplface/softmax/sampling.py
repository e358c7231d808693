"""Which classes a step compares with, when it does not compare with all (An et al., "Partial FC", CVPR 2022)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


def drawn_classes(classes: range, rate: float, seed: int, step: int) -> Bool[Tensor, " classes"]:
    """Each class with probability ``rate``; whether one is drawn depends on the seed, the step and its id alone.

    Class j looks at number j of the step's random numbers, so that ranks draw for their own classes what one process
    would draw for all.

    Args:
        classes: ids to draw from, contiguous.
        rate: in (0, 1).
        seed: of the draw.
        step: another draw in each.
    """
    numbers = np.random.Philox(key=[seed, step])
    block, skipped = divmod(classes.start, 4)  # Philox makes its numbers by the four
    numbers.advance(block)
    chosen = np.random.Generator(numbers).random(skipped + len(classes))[skipped:] < rate
    return torch.from_numpy(chosen)
