"""Intervals and one-sided bounds of an error rate at a fixed threshold, over people.

The variance V of a rate r comes from the bootstrap over people. r(1 − r)/V independent comparisons would have the same
variance; Clopper and Pearson's interval is taken for so many (Korn and Graubard, "Confidence intervals for proportions
with small expected number of positive counts estimated from survey data", 1998). Where no error is seen the variance is
not known, and the independent comparisons of :mod:`vplface.evaluation.claims` stand in its place.

The interval is estimated from the errors that were seen. The one-sided upper bound does not rely on them: it is never
below that of a set without any error, since a false match must not strengthen a claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from vplface.errors import import_extra
from vplface.evaluation.claims import LEVEL, bound_without_matches
from vplface.evaluation.figure import Stored

special: Any = import_extra("scipy.special", "train")  # scipy.stats takes a second to import


@dataclass(frozen=True, eq=False)
class BoundedRate(Stored):
    """An error rate at a fixed threshold.

    Attributes:
        value: a fraction.
        errors: pairs that are errors.
        pairs: all pairs.
        interval: of 95 %.
        lower: the one-sided 95 % lower bound.
        upper: the one-sided 95 % upper bound.
    """

    value: float
    errors: int
    pairs: int
    interval: tuple[float, float]
    lower: float
    upper: float

    @classmethod
    def of(
        cls, errors: float, pairs: float, replicates: Float64[np.ndarray, " replicates"], comparisons: float
    ) -> BoundedRate | None:
        """The rate with its bounds; None without pairs, or without independent comparisons.

        Args:
            errors: pairs that are errors.
            pairs: all pairs.
            replicates: of the rate, over draws of people; NaN where a draw has no pairs.
            comparisons: independent comparisons among the pairs.

        Raises:
            ValueError: fewer than two replicates.
        """
        valid = replicates[np.isfinite(replicates)]
        if not pairs or not comparisons:
            return None
        if len(valid) < 2:
            raise ValueError("bounds of a rate need resamples of the people")
        rate = errors / pairs
        variance = float(np.mean((valid - rate) ** 2))
        size = min(rate * (1 - rate) / variance, pairs) if variance and 0 < rate < 1 else comparisons
        low, high = _ends(rate, size, LEVEL / 2)
        lower, upper = _ends(rate, size, LEVEL)
        unseen = bound_without_matches(comparisons)
        return cls(rate, int(errors), int(pairs), (low, high), min(lower, 1 - unseen), max(upper, unseen))

    def to_json(self) -> dict[str, Any]:
        """The JSON object: value, interval, bounds and counts."""
        return {
            "value": self.value,
            "ci95": list(self.interval),
            "lower95": self.lower,
            "upper95": self.upper,
            "errors": self.errors,
            "pairs": self.pairs,
        }


def _ends(rate: float, size: float, level: float) -> tuple[float, float]:
    """The two ends by Clopper and Pearson, each missed with a probability of ``level``."""
    errors = rate * size
    low = float(special.betaincinv(errors, size - errors + 1, level)) if errors > 0 else 0.0
    high = float(special.betaincinv(errors + 1, size - errors, 1 - level)) if errors < size else 1.0
    return low, high
