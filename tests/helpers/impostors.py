"""Worlds of people in which the false match rate is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vplface.evaluation.scores import Scores, scores_of_pairs

THRESHOLD = 0.5

World = Callable[[np.random.Generator, int], tuple[np.ndarray, float]]
"""Which pairs of people match, and how often a pair of random people does."""


def independent(rate: float) -> World:
    """All pairs of people match independently of each other."""
    return lambda rng, people: (np.triu(rng.random((people, people)) < rate, 1), rate)


def with_people_who_match_everybody(share: float) -> World:
    """Some people match everybody, and nobody else does."""

    def world(rng, people):
        everybody = rng.random(people) < share
        return everybody[:, None] | everybody, 1 - (1 - share) ** 2

    return world


def both(first: World, second: World) -> World:
    """A pair matches in either of two worlds."""

    def world(rng, people):
        (matches, rate), (others, other) = first(rng, people), second(rng, people)
        return matches | others, 1 - (1 - rate) * (1 - other)

    return world


def scores_in(world: World, rng: np.random.Generator, people: int, fnmr: float) -> tuple[Scores, float]:
    """Scores of all pairs of people and of one genuine pair of each, 1 for accepted and 0 for rejected; and the FMR."""
    matches, rate = world(rng, people)
    left, right = np.triu_indices(people, 1)
    each = np.arange(people)
    similarity = np.concatenate([matches[left, right], rng.random(people) >= fnmr]).astype(np.float64)
    same = np.repeat([False, True], [len(left), people])
    left, right = np.concatenate([2 * left, 2 * each]), np.concatenate([2 * right, 2 * each + 1])
    return scores_of_pairs(similarity, same, left, right, np.repeat(each, 2)), rate
