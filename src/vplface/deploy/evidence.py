"""The worth of a similarity: a log-likelihood ratio, and a probability at a stated prior."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vplface.deploy.decision import Threshold
from vplface.evaluation.calibration import probability


@dataclass(frozen=True)
class Evidence:
    """The worth of a similarity, by the calibration of the model.

    Attributes:
        llr: log-likelihood ratio of one person against two, natural logarithm.
        bound: ``"lower"`` or ``"upper"`` if the calibration cuts the ratio off there: it is then at least, or at most,
            ``llr``. None otherwise.
        prior: the probability of one person before the pictures are seen.
        probability: the one after.
    """

    llr: float
    bound: str | None
    prior: float
    probability: float

    def __str__(self) -> str:
        words = {None: "", "lower": "at least ", "upper": "at most "}[self.bound]
        return (
            f"probability of one person: {words}{self.probability:.4f} at a prior of {self.prior:.2g} (log-likelihood "
            f"ratio {words}{self.llr:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


def evidence_of(similarity: float, threshold: Threshold | None, prior: float) -> Evidence | None:
    """The worth of the similarity of two pictures; None if the operating point has no calibration.

    Args:
        similarity: cosine of the two.
        threshold: of the model.
        prior: within (0, 1).
    """
    if threshold is None or threshold.point is None or threshold.point.calibration is None:
        return None
    calibration = threshold.point.calibration
    llr = calibration.llr(np.array([similarity]))
    bounds = {calibration.highest: "lower", calibration.lowest: "upper"}
    return Evidence(float(llr[0]), bounds.get(float(llr[0])), prior, float(probability(llr, prior)[0]))
