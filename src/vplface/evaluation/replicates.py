"""Replicates of TAR at FAR where a few of the impostor scores stand for all, and people weigh in a protocol's own way.

:mod:`vplface.evaluation.bootstrap` says what a replicate is. Here the total weight of the impostors in each draw comes
from the caller, so that only the highest scores need be kept: fifteen million pairs of templates, or three thousand
million comparisons of probes with a gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from vplface.evaluation.bootstrap import PairWeights, first_rejected, interval, sums_of, thinned
from vplface.evaluation.metrics import TAR
from vplface.evaluation.tar_at_far import FarRule, TooFewImpostorsError, tar_at_far


@dataclass(frozen=True, eq=False)
class Weighed:
    """Scores from highest to lowest, and whose draws they weigh by.

    Attributes:
        score: the scores.
        people: the two people behind each: it weighs the product of their draws, or as often as the one was drawn if
            both are one.
    """

    score: Float[np.ndarray, " k"]
    people: Int[np.ndarray, "k 2"]

    def weights(self, drawn: Int64[np.ndarray, " identities"]) -> Int64[np.ndarray, " k"]:
        """How much each score weighs in a draw."""
        return self._pairs.weights(drawn)

    @cached_property
    def _pairs(self) -> PairWeights:
        return PairWeights(self.people)


def tar_replicates_of_highest(
    genuine: Weighed,
    impostor: Weighed,
    impostor_weight: Float[np.ndarray, " replicates"],
    fars: Sequence[float],
    rule: FarRule,
    draws: Int64[np.ndarray, "replicates identities"],
) -> Float64[np.ndarray, "fars replicates"]:
    """TAR at each false accept rate for each draw; NaN where a draw holds no genuine or no impostor pairs.

    Impostor scores below the highest 50,000 are thinned, as :func:`~vplface.evaluation.bootstrap.thinned` says. A
    replicate that needed more scores than are given stops at the last; its TAR is then a little too low.

    Args:
        genuine: all genuine scores.
        impostor: the highest impostor scores, at least :func:`~vplface.evaluation.bootstrap.tail_length` of them.
        impostor_weight: of all impostor pairs in each draw, those not given included.
        fars: the false accept rates.
        rule: see :data:`~vplface.evaluation.tar_at_far.FarRule`.
        draws: how often each person is drawn.
    """
    ranks, stands_for = thinned(len(impostor.score))
    tail = Weighed(impostor.score[ranks], impostor.people[ranks])
    # Accepted genuine scores if the impostor score at a position is rejected.
    right = np.searchsorted(-genuine.score, -tail.score, side="left")
    first, after = (np.searchsorted(-tail.score, -tail.score, side=side) for side in ("left", "right"))
    rates = np.asarray(fars, np.float64)
    result = np.full((len(rates), len(draws)), np.nan)
    for number, (drawn, total) in enumerate(zip(draws, impostor_weight, strict=True)):
        matched = sums_of(genuine.weights(drawn))
        if not total or not matched[-1]:
            continue
        accepted = sums_of(tail.weights(drawn) * stands_for)
        rejected = first_rejected(accepted, rates * total, first, after, rule)
        all_are_given = len(tail.score) == len(impostor.score) and accepted[-1] >= total
        right_of = np.append(right, len(genuine.score) if all_are_given else right[-1])
        result[:, number] = matched[right_of[rejected]] / matched[-1]
    return result


def tar_figures(
    genuine: Weighed,
    impostor: Weighed,
    impostors: int,
    impostor_weight: Float[np.ndarray, " replicates"],
    fars: Sequence[float],
    rule: FarRule,
    draws: Int64[np.ndarray, "replicates identities"],
) -> tuple[dict[str, dict[str, Any]], dict[str, Float64[np.ndarray, " replicates"]]]:
    """TAR at each false accept rate with its interval, or the reason why there is none; and the replicates.

    Args:
        genuine: all genuine scores.
        impostor: the highest impostor scores.
        impostors: how many there are of them in all.
        impostor_weight: see :func:`tar_replicates_of_highest`.
        fars: the false accept rates.
        rule: see :data:`~vplface.evaluation.tar_at_far.FarRule`.
        draws: how often each person is drawn; none for no intervals.
    """
    figures: dict[str, dict[str, Any]] = {}
    reached = []
    for far in sorted(set(fars), reverse=True):
        figure = figures[TAR.at(far).key] = {
            "value": None,
            "ci95": None,
            "threshold": None,
            "actual_far": None,
        }
        try:
            point = tar_at_far(genuine.score, impostor.score, far, rule, impostors)
        except TooFewImpostorsError as error:
            figure["reason"] = str(error)
            continue
        figure |= {"value": point.tar, "threshold": point.threshold, "actual_far": point.actual_far}
        reached.append(far)
    if not len(draws) or not reached:
        return figures, {}
    resampled = tar_replicates_of_highest(genuine, impostor, impostor_weight, reached, rule, draws)
    replicates = {TAR.at(far).key: each for far, each in zip(reached, resampled, strict=True)}
    people = len(np.unique(genuine.people))
    for metric, each in replicates.items():
        ends = interval(each, people)
        figures[metric]["ci95"] = None if ends is None else list(ends)
    return figures, replicates
