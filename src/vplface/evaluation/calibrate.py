"""Calibration on one half of the people, judged on the other half."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vplface.errors import DataError
from vplface.evaluation.all_pairs import BINS, score_all_pairs
from vplface.evaluation.bootstrap import PairWeights, draws
from vplface.evaluation.calibration import Calibration, Method, fit_calibration, probability
from vplface.evaluation.figure import Figure
from vplface.evaluation.llr_cost import cllr, min_cllr
from vplface.evaluation.rate_bounds import BoundedRate
from vplface.evaluation.scores import cosine

FEWEST = 5
"""The fewest people with several pictures in each half."""

_MOST_IMPOSTORS = 1_000_000
_STEP = 1.0
"""Width of the bins of the calibration curve, in natural units of the LLR."""


def calibrate(
    method: Method,
    unit: Float[np.ndarray, "n dim"],
    identity: Int[np.ndarray, " n"],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Fit a calibration to all pairs of one half of the people, and judge it on the other half.

    Halves are drawn at random, people with several pictures and people with one apart. On the half that judges, at most
    a million impostor pairs are compared, drawn at random.

    Args:
        method: of the fit.
        unit: embeddings of unit norm.
        identity: the person on each picture.
        replicates: draws of people for the intervals; 0 for none.
        seed: of the halves and of all draws.

    Returns:
        ``"fit"`` (:meth:`Calibration.to_json`), ``"people"`` and ``"judged_people"``, ``"genuine"`` and ``"impostors"``
        (pairs that judge), ``"cllr"``, a figure, and ``"min_cllr"`` in bits, and ``"curve"``: for each range ``"llr"``
        of log-likelihood ratios the mean ``"predicted"`` probability and the figure ``"observed"``, both at a prior
        of ½, with the pairs of each kind. minC_llr has no interval: a draw repeats people, and its best map fits
        the repetition.

    Raises:
        DataError: fewer than five people with several pictures for each half.
    """
    fits = _half(identity, seed)
    of_fit = identity[fits]
    counted = score_all_pairs(unit[fits], of_fit, keep=1)
    pictures = np.unique(of_fit, return_counts=True)[1]
    fitted = fit_calibration(
        method, counted.edges, counted.genuine, counted.impostor, int((pictures > 1).sum()), len(pictures)
    )
    return judge(fitted, unit[~fits], identity[~fits], replicates, seed)


def judge(
    fitted: Calibration,
    unit: Float[np.ndarray, "n dim"],
    identity: Int[np.ndarray, " n"],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Judge a calibration on all pairs of people that it was not fitted on; see :func:`calibrate`."""
    judged = _Judged.of(unit, identity, seed)
    return {
        "fit": fitted.to_json(),
        "people": fitted.people,
        "judged_people": judged.people,
        "genuine": len(judged.bin[0]),
        "impostors": len(judged.bin[1]),
        **_figures(fitted, judged, replicates, seed),
    }


def _half(identity: Int[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Whether each picture is of the half of the people that fits."""
    people, place, count = np.unique(identity, return_inverse=True, return_counts=True)
    several = np.flatnonzero(count > 1)
    if len(several) < 2 * FEWEST:
        raise DataError(
            f"a calibration needs {2 * FEWEST} people with several pictures, half of them to judge it; here are "
            f"{len(several)}"
        )
    rng = np.random.default_rng((seed, 0))
    fits = np.zeros(len(people), bool)
    for group in (several, np.flatnonzero(count == 1)):
        fits[rng.permutation(group)[: (len(group) + 1) // 2]] = True
    chosen: Bool[np.ndarray, " n"] = fits[place]
    return chosen


class _Judged:
    """The pairs that judge, genuine and impostor, as bins of similarity with the people of each pair."""

    def __init__(self, people: int, bins: list[Int64[np.ndarray, " p"]], pairs: list[Int64[np.ndarray, "p 2"]]) -> None:
        self.people, self.bin = people, bins
        self.mated = len(np.unique(pairs[0]))
        self._weights = [PairWeights(each) for each in pairs]

    @classmethod
    def of(cls, unit: Float[np.ndarray, "n dim"], identity: Int[np.ndarray, " n"], seed: int) -> _Judged:
        """All genuine pairs, and the impostor pairs or a sample of them."""
        people, person = np.unique(identity, return_inverse=True)
        genuine = score_all_pairs(unit, person, keep=1).scores.genuine_pairs
        pairs = [np.asarray(genuine, np.int64), _impostors(person, seed)]
        bins = [np.minimum((cosine(unit.astype(np.float64), *each.T) + 1) * (BINS / 2), BINS - 1) for each in pairs]
        return cls(len(people), [each.astype(np.int64) for each in bins], [person[each] for each in pairs])

    def counts(self, drawn: Int64[np.ndarray, " identities"] | None = None) -> list[Float64[np.ndarray, " bins"]]:
        """The weight of the pairs in each bin, genuine and impostor, in a draw of people; None: each counts once."""
        weights = [None if drawn is None else each.weights(drawn) for each in self._weights]
        return [
            np.bincount(place, weight, minlength=BINS).astype(np.float64)
            for place, weight in zip(self.bin, weights, strict=True)
        ]


def _impostors(person: Int[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, "p 2"]:
    """All impostor pairs of pictures, or as many as are compared, drawn without replacement."""
    n = len(person)
    rng = np.random.default_rng((seed, 1))
    total = n * (n - 1) // 2
    number = np.arange(total) if total <= 2 * _MOST_IMPOSTORS else rng.integers(total, size=2 * _MOST_IMPOSTORS)
    number = np.unique(number)
    right = ((1 + np.sqrt(1 + 8 * number)) / 2).astype(np.int64)  # number = right (right − 1)/2 + left
    right -= right * (right - 1) // 2 > number
    right += (right + 1) * right // 2 <= number
    pairs = np.stack([number - right * (right - 1) // 2, right], axis=1)
    impostor: Int64[np.ndarray, "p 2"] = pairs[person[pairs[:, 0]] != person[pairs[:, 1]]]
    if len(impostor) > _MOST_IMPOSTORS:
        impostor = impostor[rng.choice(len(impostor), _MOST_IMPOSTORS, replace=False)]
    return impostor


def _figures(fitted: Calibration, judged: _Judged, replicates: int, seed: int) -> dict[str, Any]:
    """C_llr with its interval over people, minC_llr, and the calibration curve."""
    llr = fitted.llr((np.arange(BINS) + 0.5) * (2 / BINS) - 1)
    counts = judged.counts()
    drawn = [judged.counts(each) for each in draws(judged.people, replicates, seed)] if replicates else []
    cost = Figure(cllr(llr, *counts), count=judged.people).resampled(np.array([cllr(llr, *each) for each in drawn]))
    return {"cllr": cost.to_json(), "min_cllr": min_cllr(*counts), "curve": _curve(llr, judged, counts, drawn)}


def _curve(
    llr: Float64[np.ndarray, " bins"],
    judged: _Judged,
    counts: list[Float64[np.ndarray, " bins"]],
    drawn: list[list[Float64[np.ndarray, " bins"]]],
) -> list[dict[str, Any]]:
    """Predicted and observed probabilities in steps of the log-likelihood ratio."""
    used = (counts[0] + counts[1]) > 0
    edges = np.arange(np.floor(llr[used].min() / _STEP), np.floor(llr[used].max() / _STEP) + 2) * _STEP
    step = np.digitize(llr, edges) - 1
    independent = judged.mated, judged.people / 2
    curve = []
    for number in range(len(edges) - 1):
        if not (inside := (step == number) & used).any():
            continue
        shares = [float(each[inside].sum() / each.sum()) for each in counts]
        weight = sum(each[inside] / each.sum() for each in counts)
        ends = None
        if drawn:
            with np.errstate(invalid="ignore"):
                rates = [
                    BoundedRate.of(
                        float(counts[kind][inside].sum()),
                        float(counts[kind].sum()),
                        np.array([each[kind][inside].sum() / each[kind].sum() for each in drawn]),
                        independent[kind],
                    )
                    for kind in range(2)
                ]
            ends = _interval_of_share(*rates)
        curve.append(
            {
                "llr": [float(edges[number]), float(edges[number + 1])],
                "predicted": float(np.average(probability(llr[inside], 0.5), weights=weight)),
                "observed": Figure(shares[0] / sum(shares), ends).to_json(),
                "genuine": int(counts[0][inside].sum()),
                "impostors": int(counts[1][inside].sum()),
            }
        )
    return curve


def _interval_of_share(genuine: BoundedRate | None, impostor: BoundedRate | None) -> tuple[float, float] | None:
    """The interval of g/(g + i), of two rates with their intervals.

    The variances of ln g and ln i are recovered from their intervals and added (Zou and Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27, 2008). Where a rate is 0, one end is the share
    of the two nearest ends, and the other is 0 or 1.
    """
    if genuine is None or impostor is None:
        return None
    (low, high), (least, most) = genuine.interval, impostor.interval
    if genuine.value == 0:
        return 0.0, high / (high + least)
    if impostor.value == 0:
        return low / (low + most), 1.0
    ratio = math.log(genuine.value / impostor.value)
    down = math.hypot(math.log(genuine.value / low), math.log(most / impostor.value))
    up = math.hypot(math.log(high / genuine.value), math.log(impostor.value / least))
    first, last = (1 / (1 + math.exp(-end)) for end in (ratio - down, ratio + up))
    return first, last
