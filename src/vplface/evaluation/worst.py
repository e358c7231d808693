"""The pairs that a model is most wrong about, each picture once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

WORST = 16
"""How many of the most wrong pairs of each kind are named."""


def first_without_repetition(
    similarity: Float[np.ndarray, " p"], pairs: Int[np.ndarray, "p 2"] | Iterable[tuple[int, int]]
) -> list[tuple[float, int, int]]:
    """The first :data:`WORST` pairs that share no picture with one before: similarity, left and right.

    Without this rule one mislabelled picture would fill the list.
    """
    chosen: list[tuple[float, int, int]] = []
    seen: set[int] = set()
    for score, (left, right) in zip(similarity, pairs, strict=True):
        if len(chosen) == WORST:
            break
        if left not in seen and right not in seen:
            seen |= {int(left), int(right)}
            chosen.append((float(score), int(left), int(right)))
    return chosen
