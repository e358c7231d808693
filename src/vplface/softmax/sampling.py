"""Sampling of the classes that a step compares with (An et al., "Partial FC", CVPR 2022)."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from vplface.prototypes import Draw


def drawn_classes(classes: range, rate: float, seed: int, step: int) -> Bool[Tensor, " classes"]:
    """Each class with probability ``rate``; whether one is drawn depends on the seed, the step and its id alone.

    Args:
        classes: ids to draw from, contiguous.
        rate: in (0, 1).
        seed: of the draw.
        step: another draw in each.
    """
    return Draw(classes, seed, step).uniform() < rate
