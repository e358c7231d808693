"""The pairs that a model is most wrong about, each picture once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

WORST = 16
"""How many of the most wrong pairs of each kind are named."""


class WrongPair(NamedTuple):
    """A pair that a model is wrong about: its similarity, and the numbers of its pictures."""

    similarity: float
    left: int
    right: int


def first_without_repetition(
    similarity: Float[np.ndarray, " p"], pairs: Int[np.ndarray, "p 2"] | Iterable[tuple[int, int]]
) -> list[WrongPair]:
    """The first :data:`WORST` pairs that share no picture with one before.

    Without this rule one mislabelled picture would fill the list.
    """
    chosen: list[WrongPair] = []
    seen: set[int] = set()
    for score, (left, right) in zip(similarity, pairs, strict=True):
        if len(chosen) == WORST:
            break
        if left not in seen and right not in seen:
            seen |= {int(left), int(right)}
            chosen.append(WrongPair(float(score), int(left), int(right)))
    return chosen
