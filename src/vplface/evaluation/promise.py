"""A stored threshold on other people: its error rates there, and whether the promised false accept rate holds.

A threshold was chosen on some people so that a false accept rate, the promise, is not exceeded. On others it is not
chosen again. The promise holds where the one-sided 95 % upper bound of the false match rate does not exceed it, and is
violated where the lower bound does; else these people cannot decide. See :mod:`vplface.evaluation.rate_bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vplface.errors import DataError
from vplface.evaluation.calibration import Calibration
from vplface.evaluation.claims import independent_comparisons, needed
from vplface.evaluation.metrics import OPERATING_POINT
from vplface.evaluation.pair_classes import PairClasses, count_errors
from vplface.evaluation.rate_bounds import BoundedRate
from vplface.evaluation.scores import Scores

Verdict = Literal["holds", "violated", "undecided"]


@dataclass(frozen=True)
class Promise:
    """A stored threshold.

    Attributes:
        threshold: a pair is accepted if its similarity is >= this.
        far: the false accept rate that it is to keep.
        calibration: that is stored with it; None for none.
    """

    threshold: float
    far: float
    calibration: Calibration | None = None


def measure_promise(scores: Scores, promise: Promise, replicates: int, seed: int) -> dict[str, Any]:
    """The error rates at a stored threshold, JSON-ready.

    Args:
        scores: of the pairs.
        promise: the stored threshold.
        replicates: draws of people, at least two.
        seed: of the draws.

    Returns:
        ``"threshold"``, ``"far"``, ``"fmr"`` and ``"fnmr"`` as :class:`~vplface.evaluation.rate_bounds.BoundedRate`,
        ``"people"``, ``"independent_comparisons"``, ``"verdict"`` and ``"sentence"``.

    Raises:
        DataError: more impostor pairs are accepted than were kept.
    """
    require_kept(scores, promise.threshold)
    comparisons = comparisons_of(scores)
    rates = rates_at(scores, {OPERATING_POINT: promise.threshold}, comparisons, replicates, seed)[OPERATING_POINT]
    fmr = rates["fmr"]
    verdict: Verdict = "undecided"
    if fmr.upper <= promise.far:
        verdict = "holds"
    elif fmr.lower > promise.far:
        verdict = "violated"
    return {
        "threshold": promise.threshold,
        "far": promise.far,
        **{kind: rate.to_json() for kind, rate in rates.items()},
        "people": scores.identities,
        "independent_comparisons": comparisons,
        "verdict": verdict,
        "sentence": _sentence(verdict, fmr, promise.far, scores.identities),
    }


def rates_at(
    scores: Scores, thresholds: dict[str, float], comparisons: float, replicates: int, seed: int
) -> dict[str, dict[str, BoundedRate]]:
    """FNMR and FMR at thresholds, with their bounds.

    Args:
        scores: of the pairs.
        thresholds: by the key of the operating point.
        comparisons: independent comparisons among the impostor pairs.
        replicates: draws of people, at least two.
        seed: of the draws.

    Returns:
        {operating point: {"fmr", "fnmr"}}.
    """
    everybody = PairClasses(np.where(scores.identity >= 0, 0, -1), [(0, 0)])
    counted = count_errors(scores, everybody, thresholds, replicates, seed)
    independent = {"fmr": comparisons, "fnmr": float(len(np.unique(scores.identity[scores.genuine_pairs])))}
    found: dict[str, dict[str, BoundedRate]] = {point: {} for point in thresholds}
    for kind, number in independent.items():
        of_kind = counted[kind]
        for place, point in enumerate(thresholds):
            rate = BoundedRate.of(
                float(of_kind.errors[place, 0]), float(of_kind.pairs[0]), of_kind.drawn_rates[:, place, 0], number
            )
            assert rate is not None  # an evaluation has pairs of both kinds
            found[point][kind] = rate
    return found


def comparisons_of(scores: Scores) -> float:
    """The independent comparisons among impostor pairs."""
    pictures = np.bincount(scores.identity[scores.identity >= 0])
    if scores.impostors == (pictures.sum() ** 2 - (pictures**2).sum()) // 2:  # all pairs of people
        return scores.identities / 2
    return independent_comparisons(scores.identity[scores.impostor_pairs])


def require_kept(scores: Scores, threshold: float) -> None:
    """Raise DataError if impostor pairs that reach a threshold are not among those that were kept."""
    if not scores.complete and not threshold > scores.impostor[-1]:
        share = len(scores.impostor) / scores.impostors
        raise DataError(
            f"more than {len(scores.impostor):,} of {scores.impostors:,} impostor pairs reach the stored threshold "
            f"{threshold:.4f}, so its FMR exceeds {share:.2g}. Only the highest scores are kept: give --far "
            f"{min(1.0, 4 * share):.1g} to keep more, or fewer people"
        )


def _sentence(verdict: Verdict, fmr: BoundedRate, far: float, people: int) -> str:
    matches = f"{fmr.errors:,} false match{'' if fmr.errors == 1 else 'es'} in {fmr.pairs:,} impostor pairs"
    if verdict == "holds":
        return (
            f"The promised FAR of {far:g} holds on these {people:,} people: {matches}, FMR {fmr.value:.2g}, at most "
            f"{fmr.upper:.2g} with 95 % confidence."
        )
    if verdict == "violated":
        return (
            f"The promised FAR of {far:g} is violated on these {people:,} people: {matches}, FMR {fmr.value:.2g}, at "
            f"least {fmr.lower:.2g} with 95 % confidence."
        )
    low, high = fmr.interval
    lies = "lies below it" if high <= far else "may lie on either side of it"
    wanted = needed(far).people if far < 1 else 0
    more = f"at least {wanted:,} people" if wanted > people else "more people"
    return (
        f"Whether the promised FAR of {far:g} holds cannot be decided with these {people:,} people: {matches}. The "
        f"FMR, {fmr.value:.2g} (95 % interval {low:.2g} … {high:.2g}), {lies}, but the bound "
        f"without assumptions on who resembles whom is {fmr.upper:.2g}. It takes {more} to claim it."
    )
