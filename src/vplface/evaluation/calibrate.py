"""Calibration on one half of the people, judged on the other half."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vplface.errors import DataError
from vplface.evaluation.all_pairs import BINS, score_all_pairs
from vplface.evaluation.bootstrap import PairWeights, draws
from vplface.evaluation.calibration import Calibration, Method, fit_calibration, probability
from vplface.evaluation.figure import Figure
from vplface.evaluation.llr_cost import cllr, min_cllr
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
        (pairs that judge), ``"cllr"`` and ``"min_cllr"`` in bits as figures, and ``"curve"``: for each range ``"llr"``
        of log-likelihood ratios the mean ``"predicted"`` probability and the figure ``"observed"``, both at a prior of
        ½, with the pairs of each kind.

    Raises:
        DataError: fewer than five people with several pictures for each half, or see :func:`fit_calibration`.
    """
    fits = _half(identity, seed)
    of_fit = identity[fits]
    counted = score_all_pairs(unit[fits], of_fit, keep=1)
    pictures = np.unique(of_fit, return_counts=True)[1]
    fitted = fit_calibration(
        method, counted.edges, counted.genuine, counted.impostor, int((pictures > 1).sum()), len(pictures)
    )
    judged = _Judged.of(unit[~fits], identity[~fits], seed)
    bins = (counted.edges[:-1] + counted.edges[1:]) / 2
    return {
        "fit": fitted.to_json(),
        "people": len(pictures),
        "judged_people": judged.people,
        "genuine": len(judged.bin[0]),
        "impostors": len(judged.bin[1]),
        **_figures(fitted, bins, judged, replicates, seed),
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
        self.people, self.bin, self.of_people = people, bins, pairs
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

    def people_in(self, chosen: Bool[np.ndarray, " bins"]) -> int:
        """How many people have pairs in some bins."""
        inside = [pairs[chosen[place]].ravel() for place, pairs in zip(self.bin, self.of_people, strict=True)]
        return len(np.unique(np.concatenate(inside)))


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


def _figures(
    fitted: Calibration, centre: Float[np.ndarray, " bins"], judged: _Judged, replicates: int, seed: int
) -> dict[str, Any]:
    """C_llr, minC_llr and the calibration curve, with intervals over people."""
    llr = fitted.llr(centre)
    counts = judged.counts()
    used = (counts[0] + counts[1]) > 0
    edges = np.arange(np.floor(llr[used].min() / _STEP), np.floor(llr[used].max() / _STEP) + 2) * _STEP
    step = np.digitize(llr, edges) - 1
    steps = len(edges) - 1
    drawn = [judged.counts(each) for each in draws(judged.people, replicates, seed)] if replicates else []
    curve = []
    observed = np.array([_observed(each, step, steps) for each in drawn]).reshape(len(drawn), steps)
    of_all = _observed(counts, step, steps)
    for number in range(steps):
        inside = (step == number) & used
        if inside.any():
            weight = sum(each[inside] / each.sum() for each in counts)
            figure = Figure(float(of_all[number]), count=judged.people_in(inside))
            curve.append(
                {
                    "llr": [float(edges[number]), float(edges[number + 1])],
                    "predicted": float(np.average(probability(llr[inside], 0.5), weights=weight)),
                    "observed": figure.resampled(observed[:, number]).to_json(),
                    "genuine": int(counts[0][inside].sum()),
                    "impostors": int(counts[1][inside].sum()),
                }
            )
    figures = {}
    for name, of in (("cllr", lambda g, i: cllr(llr, g, i)), ("min_cllr", min_cllr)):
        figure = Figure(of(*counts), count=judged.people)
        figures[name] = figure.resampled(np.array([of(*each) for each in drawn])).to_json()
    return {**figures, "curve": curve}


def _observed(
    counts: list[Float64[np.ndarray, " bins"]], step: Int64[np.ndarray, " bins"], steps: int
) -> Float64[np.ndarray, " {steps}"]:
    """The share of genuine pairs in each step at a prior of ½; NaN without pairs."""
    inside = (step >= 0) & (step < steps)
    with np.errstate(invalid="ignore"):
        both = [np.bincount(step[inside], each[inside], minlength=steps) / each.sum() for each in counts]
        share: Float64[np.ndarray, " steps"] = both[0] / (both[0] + both[1])
    return share
