"""Single numbers of a whole ROC: the equal error rate and the area under the curve.

The false match rate (FMR) is the false accept rate (FAR), the false non-match rate (FNMR) is 1 − TAR. Between two
neighbouring points of a ROC the curve is the straight line that a draw between their two thresholds would give; so it
goes through tied scores, and the area below it is the probability that a genuine pair scores higher than an impostor
pair, ties counting half (Mann and Whitney).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vplface.evaluation.figure import Figure
from vplface.evaluation.verification import between


@dataclass(frozen=True)
class EqualErrorRate:
    """The point where FMR and FNMR are equal.

    Attributes:
        rate: the error rate at which the ROC crosses FMR = FNMR.
        threshold: of the point of the ROC that is nearest to it, midway to the next lower score.
    """

    rate: float
    threshold: float


def equal_error_rate(
    far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " t"]
) -> EqualErrorRate:
    """The equal error rate of a ROC by falling threshold, as :func:`vplface.evaluation.tar_at_far.roc` gives it.

    Raises:
        ValueError: a curve that does not begin at (0, 0) or does not reach FMR = FNMR.
    """
    _require_start(far, tar)
    point = bisect_left(range(len(far)), 0.0, key=lambda k: far[k] + tar[k] - 1.0)
    if point == len(far):
        raise ValueError(f"the curve ends at FMR {far[-1]:g} before FMR and FNMR meet")
    rate = crossing(far[point - 1], 1.0 - tar[point - 1], far[point], 1.0 - tar[point])
    nearer = point if far[point] + tar[point] - 1.0 <= 1.0 - far[point - 1] - tar[point - 1] else point - 1
    if nearer + 1 == len(far):
        return EqualErrorRate(rate, float(thresholds[nearer]))
    low, high = float(thresholds[nearer + 1]), float(thresholds[nearer])
    return EqualErrorRate(rate, between(low, high) if np.isfinite(high) else float(np.nextafter(low, np.inf)))


def area_under_curve(far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"]) -> float:
    """The area under a ROC by falling threshold, from (0, 0) to (1, 1).

    Raises:
        ValueError: a curve that does not go from (0, 0) to (1, 1).
    """
    _require_start(far, tar)
    if (far[-1], tar[-1]) != (1.0, 1.0):
        raise ValueError(f"the curve ends at ({far[-1]:g}, {tar[-1]:g}), not at (1, 1)")
    return float(np.trapezoid(tar, far))


def equal_error_figure(
    far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " t"]
) -> Figure:
    """The equal error rate as a figure, with its threshold."""
    equal = equal_error_rate(far, tar, thresholds)
    return Figure(equal.rate, details={"threshold": equal.threshold})


def area_figure(
    far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " t"]
) -> Figure:
    """The area under the curve as a figure, which has no threshold."""
    return Figure(area_under_curve(far, tar))


def crossing(fmr: float, fnmr: float, next_fmr: float, next_fnmr: float) -> float:
    """The rate at which the line from a point with FMR < FNMR to one with FMR >= FNMR crosses FMR = FNMR."""
    before, after = fnmr - fmr, next_fmr - next_fnmr
    return float(fmr + (next_fmr - fmr) * before / (before + after))


def _require_start(far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"]) -> None:
    if len(far) != len(tar) or not len(far) or far[0] or tar[0]:
        raise ValueError("a ROC begins at (0, 0) and has as many FAR as TAR")
