"""Calibration: from the similarity of two faces to a log-likelihood ratio, and to a probability at a stated prior.

    LLR(s) = ln p(s | one person) / p(s | two people)
    P(one person | s) = 1 / (1 + (1 − prior)/prior · e^−LLR)

``"logistic"``: LLR(s) = slope · s + offset, by logistic regression in which genuine and impostor pairs weigh alike.
``"isotonic"``: steps, by pooling adjacent violators (:func:`vplface.evaluation.llr_cost.monotone_llr`).

Neither may say more than so many people can show: with n independent comparisons and no error among them, a rate below
r = 1 − 0.05^(1/n) cannot be claimed at 95 % confidence, so that the LLR is cut off at −ln r for the false match rate
and at ln r for the false non-match rate. See :mod:`vplface.evaluation.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float64, Int

from vplface.errors import DataError, import_extra
from vplface.evaluation.llr_cost import monotone_llr

Method = Literal["logistic", "isotonic"]

_STEEPEST = 1000.0
"""The largest slope of a logistic calibration, that of scores without an overlap."""


@dataclass(frozen=True)
class Calibration:
    """A monotone map of similarities to log-likelihood ratios.

    Attributes:
        method: how it was fitted.
        similarity: logistic: none. isotonic: the similarity at which each step after the first begins.
        values: logistic: slope and offset. isotonic: the LLR of each step.
        lowest: the LLR is at least this.
        highest: the LLR is at most this.
        people: how many people it was fitted on.
    """

    method: Method
    similarity: tuple[float, ...]
    values: tuple[float, ...]
    lowest: float
    highest: float
    people: int

    def __post_init__(self) -> None:
        steps, starts = np.array(self.values), np.array(self.similarity)
        if self.method == "logistic":
            right = not len(starts) and len(steps) == 2 and steps[0] >= 0
        else:
            right = len(steps) == len(starts) + 1 and (np.diff(steps) >= 0).all() and (np.diff(starts) > 0).all()
        if not right or not np.isfinite([*steps, *starts]).all() or not self.lowest < 0 < self.highest:
            raise ValueError(f"a calibration rises with the similarity and has finite values, got {self}")

    def llr(self, similarity: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The log-likelihood ratio of each similarity, natural logarithm."""
        if self.method == "logistic":
            slope, offset = self.values
            raw = slope * np.asarray(similarity, np.float64) + offset
        else:
            raw = np.array(self.values)[np.searchsorted(self.similarity, similarity, side="right")]
        cut: Float64[np.ndarray, " n"] = np.clip(raw, self.lowest, self.highest)
        return cut

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {
            "method": self.method,
            "similarity": list(self.similarity),
            "values": list(self.values),
            "lowest": self.lowest,
            "highest": self.highest,
            "people": self.people,
        }

    @classmethod
    def from_json(cls, values: object) -> Calibration:
        """Read back :meth:`to_json`; raises DataError for other values."""
        try:
            if not isinstance(values, Mapping) or values["method"] not in get_args(Method):
                raise ValueError(f"unknown method; methods: {', '.join(get_args(Method))}")
            return cls(
                values["method"],
                tuple(map(float, values["similarity"])),
                tuple(map(float, values["values"])),
                float(values["lowest"]),
                float(values["highest"]),
                int(values["people"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not a calibration: {error!r}") from error


def fit_calibration(
    method: Method,
    edges: Float[np.ndarray, " edges"],
    genuine: Int[np.ndarray, " bins"],
    impostor: Int[np.ndarray, " bins"],
    mated_people: int,
    people: int,
) -> Calibration:
    """Fit a calibration to counted pairs.

    Args:
        method: ``"logistic"`` or ``"isotonic"``.
        edges: of the bins of similarity.
        genuine: genuine pairs in each bin.
        impostor: impostor pairs in each bin.
        mated_people: people with genuine pairs, the independent comparisons of the false non-match rate.
        people: all people; half of them are the independent comparisons of the false match rate.

    """
    lowest, highest = math.log(_claimable(mated_people)), -math.log(_claimable(people / 2))
    if method == "logistic":
        return Calibration(method, (), _logistic(edges, genuine, impostor), lowest, highest, people)
    llr = np.clip(monotone_llr(genuine.astype(np.float64), impostor.astype(np.float64)), lowest, highest)
    starts = np.flatnonzero(np.diff(llr) > 0) + 1
    steps = llr[np.append(0, starts)]
    return Calibration(method, tuple(edges[starts].tolist()), tuple(steps.tolist()), lowest, highest, people)


def probability(llr: Float[np.ndarray, " n"], prior: float) -> Float64[np.ndarray, " n"]:
    """The probability of one person, of log-likelihood ratios at a prior within (0, 1)."""
    odds = np.asarray(llr, np.float64) + math.log(prior) - math.log1p(-prior)
    result: Float64[np.ndarray, " n"] = np.exp(-np.logaddexp(0.0, -odds))
    return result


def _claimable(comparisons: float) -> float:
    """The smallest rate that can be claimed at 95 % confidence where no error is seen."""
    return float(-math.expm1(math.log(0.05) / comparisons))


def _logistic(
    edges: Float[np.ndarray, " edges"], genuine: Int[np.ndarray, " bins"], impostor: Int[np.ndarray, " bins"]
) -> tuple[float, float]:
    optimize: Any = import_extra("scipy.optimize", "train")
    centre = (edges[:-1] + edges[1:]) / 2
    middle, spread = float(centre.mean()), float(centre.std())
    scaled = (centre - middle) / spread
    of_genuine, of_impostor = genuine / genuine.sum(), impostor / impostor.sum()

    def cost(parameters: Float64[np.ndarray, " 2"]) -> tuple[float, Float64[np.ndarray, " 2"]]:
        llr = parameters[0] * scaled + parameters[1]
        value = of_genuine @ np.logaddexp(0.0, -llr) + of_impostor @ np.logaddexp(0.0, llr)
        slope = (of_genuine + of_impostor) * np.exp(-np.logaddexp(0.0, -llr)) - of_genuine
        return float(value), np.array([slope @ scaled, slope.sum()])

    start = np.array([1.0, 0.0])
    tight = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
    bounds = [(0.0, _STEEPEST * spread), (None, None)]
    best = optimize.minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x
    slope = float(best[0]) / spread
    return slope, float(best[1]) - slope * middle
