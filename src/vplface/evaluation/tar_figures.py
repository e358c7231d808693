"""Figures of TAR at false accept rates, with intervals, from the highest impostor scores and their total weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from vplface.evaluation.figure import Figure, Figures
from vplface.evaluation.metrics import TAR
from vplface.evaluation.roc_replicates import WeightedScores, tar_replicates
from vplface.evaluation.tar_at_far import FarRule, TooFewImpostorsError, tar_at_far


def tar_figures(
    genuine: WeightedScores,
    impostor: WeightedScores,
    impostors: int,
    impostor_weight: Float[np.ndarray, " replicates"],
    fars: Sequence[float],
    rule: FarRule,
    draws: Int64[np.ndarray, "replicates identities"],
) -> Figures:
    """TAR at each false accept rate with its interval, or the reason why there is none.

    Args:
        genuine: all genuine scores.
        impostor: the highest impostor scores, or all.
        impostors: the number of all impostor scores.
        impostor_weight: of all impostor scores in each draw.
        fars: the false accept rates.
        rule: see :data:`~vplface.evaluation.tar_at_far.FarRule`.
        draws: how often each person is drawn; none for no intervals.
    """
    figures: dict[str, Figure] = {}
    reached = []
    people = len(np.unique(genuine.person[genuine.pairs]))
    for far in sorted(set(fars), reverse=True):
        try:
            point = tar_at_far(genuine.score, impostor.score, far, rule, impostors)
        except TooFewImpostorsError as error:
            details: dict[str, Any] = {"threshold": None, "actual_far": None, "reason": str(error)}
            figures[TAR.at(far).key] = Figure(None, details=details)
            continue
        details = {"threshold": point.threshold, "actual_far": point.actual_far}
        figures[TAR.at(far).key] = Figure(point.tar, None, details, people)
        reached.append(far)
    if not len(draws) or not reached:
        return Figures(figures)
    of_others = impostor_weight if impostors > len(impostor) else None
    resampled = tar_replicates(genuine, impostor, of_others, reached, rule, draws)
    replicates = {TAR.at(far).key: each for far, each in zip(reached, resampled, strict=True)}
    return Figures(
        figures | {metric: figures[metric].resampled(each) for metric, each in replicates.items()}, replicates
    )
