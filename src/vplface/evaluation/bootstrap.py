"""The bootstrap over identities: how much a figure depends on the people tested.

Pairs are not independent, because one person is in many of them. So people are drawn, with replacement. With c_a the
number of times that person a was drawn, a pair of the people a and b weighs c_a·c_b and a pair of one person c_a; a
replicate of a figure is the figure of the weighted pairs. Two models are compared on the same pairs and the same draws:
the replicates of their difference are the differences of their replicates.

A replicate of TAR@FAR or of the equal error rate finds its own threshold: :mod:`vplface.evaluation.roc_replicates`. A
replicate of accuracy keeps the threshold, or the folds' thresholds, that were chosen, and the shares of genuine and
impostor pairs that the list has.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vplface.progress import progress


def accuracy_replicates(
    correct: Bool[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    share: Float[np.ndarray, " p"],
    people: Int[np.ndarray, "p 2"],
    replicates: int,
    seed: int,
) -> Float64[np.ndarray, " replicates"]:
    """Accuracy for each draw of people; NaN where a draw holds no genuine or no impostor pairs.

    Args:
        correct: whether each pair was classified correctly.
        same: whether it shows one person.
        share: the contribution of each pair to the accuracy; sums to 1.
        people: the two people on each pair.
        replicates: number of draws.
        seed: of the draws.
    """
    kinds = [
        (share[kind], share[kind] * correct[kind], PairWeights(people[kind])) for kind in (same, ~same) if kind.any()
    ]
    result = np.zeros(replicates)
    with np.errstate(invalid="ignore"):
        for number, counts in enumerate(draws(int(people.max(initial=-1)) + 1, replicates, seed)):
            for shares, correct_shares, pairs in kinds:
                weights = pairs.weights(counts)
                result[number] += shares.sum() * (correct_shares @ weights) / (shares @ weights)
    return result.round(12)  # exactly 1 without errors, despite rounding in the shares


def share_replicates(
    correct: Bool[np.ndarray, " n"], person: Int[np.ndarray, " n"], drawn: Int64[np.ndarray, "replicates identities"]
) -> Float64[np.ndarray, " replicates"]:
    """The share of correct answers in each draw; NaN where a draw holds none of the people.

    Args:
        correct: whether each answer is correct.
        person: the person that each answer weighs by.
        drawn: how often each person is drawn.
    """
    of_correct, of_all = (np.bincount(each, minlength=drawn.shape[1]) for each in (person[correct], person))
    with np.errstate(invalid="ignore"):
        share: Float64[np.ndarray, " replicates"] = (drawn @ of_correct) / (drawn @ of_all)
    return share


def interval(
    replicates: Float64[np.ndarray, " replicates"], people: int, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> tuple[float, float] | None:
    """The 95 % percentile interval; None if the replicates do not determine one.

    There is none with fewer than two people, without replicates, or if most draws hold no pairs of a kind. If no draw
    differs from another because a rate is at one of its ``bounds``, no error (or no success) was seen at all and the
    bootstrap would claim certainty. The interval is then that of Clopper and Pearson for as many independent people,
    which for no error has a closed form: its other end is 1 − .025^(1/people) away.
    """
    valid = replicates[np.isfinite(replicates)]
    if people < 2 or not len(valid) or 2 * len(valid) < len(replicates):
        return None
    low, high = (float(end) for end in np.quantile(valid, [0.025, 0.975]))
    if bounds is not None and valid.min() == valid.max() and low in bounds:
        width = (bounds[1] - bounds[0]) * (1 - 0.025 ** (1 / people))
        low, high = (low, low + width) if low == bounds[0] else (high - width, high)
    return low, high


def draws(identities: int, replicates: int, seed: int) -> Iterator[Int64[np.ndarray, " identities"]]:
    """How often each person is drawn, for each replicate.

    A replicate has its own generator, so that its draw depends only on the seed and its number.
    """
    with progress("resampling people", replicates) as advance:
        for number in range(replicates):
            drawn = np.random.default_rng((seed, number)).integers(identities, size=identities)
            yield np.bincount(drawn, minlength=identities)
            advance(1)


def all_draws(identities: int, replicates: int, seed: int) -> Int64[np.ndarray, "replicates identities"]:
    """All draws of :func:`draws` at once."""
    return np.array(list(draws(identities, replicates, seed)), np.int64).reshape(replicates, identities)


class PairWeights:
    """The people on some pairs, ready to be weighed by many draws."""

    def __init__(self, people: Int[np.ndarray, "p 2"]) -> None:
        self._left, self._right = np.ascontiguousarray(people.T)
        self._one = np.flatnonzero(self._left == self._right)

    def weights(self, counts: Int64[np.ndarray, " identities"]) -> Int64[np.ndarray, " p"]:
        """c_a·c_b for a pair of a and b, c_a for a pair of one person."""
        weights: Int64[np.ndarray, " p"] = counts[self._left]
        if len(self._one) == len(weights):
            return weights
        right = counts[self._right]
        right[self._one] = 1
        weights *= right
        return weights
