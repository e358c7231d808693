"""Ages of people on pictures: groups of ages, and FNMR by the years between the two pictures of a genuine pair."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64

from vplface.evaluation.bootstrap import PairWeights, draws
from vplface.evaluation.figure import Figure
from vplface.evaluation.scores import Scores

AGES = (0, 13, 18, 35, 50, 65)
"""The first age of each group, in years: children, adolescents, and adults in four groups."""

GAPS = (0, 5, 10, 20)
"""The fewest years between two pictures, of each class of genuine pairs."""


def age_group(age: float) -> str:
    """The name of the group of an age: ``age 13–17``."""
    return f"age {_names(AGES)[int(np.searchsorted(AGES, age, side='right')) - 1]}"


def errors_by_age_gap(
    scores: Scores, age: Float64[np.ndarray, " n"], thresholds: Mapping[str, float], replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    """FNMR of genuine pairs by the years between their pictures, at common thresholds.

    Args:
        scores: of all pairs.
        age: on each picture, in years; NaN where it is not known.
        thresholds: {operating point: threshold}; a draw of people keeps them.
        replicates: draws of people; 0 for none.
        seed: of the draws.

    Returns:
        For each operating point {years: {"genuine", "identities", "fnmr"}}; empty unless two classes have pairs.
    """
    gap = np.abs(np.diff(age[scores.genuine_pairs], axis=1))[:, 0]
    known = np.isfinite(gap)
    pairs, of_class = scores.genuine_pairs[known], np.searchsorted(GAPS, gap[known], side="right") - 1
    occupied = np.unique(of_class)
    if len(occupied) < 2:
        return {}
    person, similarity = scores.identity[pairs], scores.genuine[known]
    weights = [PairWeights(person).weights(np.ones(scores.identities, np.int64))]
    weights += [PairWeights(person).weights(counts) for counts in draws(scores.identities, replicates, seed)]
    totals = np.array([np.bincount(of_class, weight, len(GAPS)) for weight in weights])
    found: dict[str, dict[str, Any]] = {}
    for point, threshold in thresholds.items():
        wrong = similarity < threshold
        errors = np.array([np.bincount(of_class[wrong], weight[wrong], len(GAPS)) for weight in weights])
        with np.errstate(invalid="ignore"):
            rates = errors / totals
        found[point] = {}
        for each in occupied.tolist():
            people = len(np.unique(person[of_class == each]))
            figure = Figure(float(rates[0, each]), count=people).resampled(rates[1:, each])
            found[point][f"{_names(GAPS)[each]} years"] = {
                "genuine": int(totals[0, each]),
                "identities": people,
                "fnmr": figure.to_json(),
            }
    return found


def _names(starts: tuple[int, ...]) -> list[str]:
    return [*(f"{low}–{high - 1}" for low, high in pairwise(starts)), f"{starts[-1]} and more"]
