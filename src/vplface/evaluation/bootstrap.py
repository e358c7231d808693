"""How far a figure would move with other people: the bootstrap over identities.

Pairs are not independent, for one person is in many of them; so it is people who are drawn, with replacement. With c_a
the number of times that person a was drawn, a pair of the people a and b weighs c_a·c_b and a pair of one person c_a;
a replicate of a figure is the figure of the weighted pairs. Two models put to the same pairs are compared on the same
draws: the replicates of their difference are the differences of their replicates.

A replicate of TAR@FAR or of the equal error rate finds its own threshold. A replicate of accuracy keeps the threshold,
or the folds' thresholds, that were chosen, and the shares of genuine and impostor pairs that the list has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vplface.evaluation.error_rates import crossing
from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import FarRule
from vplface.progress import progress

_FINE = 50_000


def tail_length(far: float, impostors: int) -> int:
    """How many of the highest impostor scores the replicates at this false accept rate look at.

    A draw may lack the people of the very highest, so it is four times what the rate needs, or less of slack where
    that is millions of scores, of many people. A replicate that needed even more stops at the last; its TAR is then a
    little too low.
    """
    needed = far * impostors
    return min(impostors, int(np.ceil(max(1.25 * needed, min(4 * needed, 2_000_000), 20_000))))


@dataclass(frozen=True, eq=False)
class RateReplicates:
    """What each draw of people says; NaN where a draw holds no genuine or no impostor pairs.

    Attributes:
        tar: TAR at each false accept rate that was asked for.
        eer: the equal error rate; NaN too where the impostor scores at hand do not reach down to it.
        auc: the area under the ROC; NaN unless every impostor score is at hand.
    """

    tar: Float64[np.ndarray, "fars replicates"]
    eer: Float64[np.ndarray, " replicates"]
    auc: Float64[np.ndarray, " replicates"]


def tar_replicates(
    scores: Scores, far: float, rule: FarRule, replicates: int, seed: int
) -> Float64[np.ndarray, " replicates"]:
    """TAR at one false accept rate, for each draw of people; see :func:`rate_replicates`."""
    tar: Float64[np.ndarray, " replicates"] = rate_replicates(scores, [far], rule, replicates, seed).tar[0]
    return tar


def rate_replicates(scores: Scores, fars: Sequence[float], rule: FarRule, replicates: int, seed: int) -> RateReplicates:
    """Everything that is read from a ROC, for each draw of people.

    The highest 50,000 impostor scores are looked at one by one. Below, where single scores decide nothing, a score
    stands for as many as are a 25,000th of its rank.

    Args:
        scores: of the pairs.
        fars: false accept rates.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        replicates: number of draws.
        seed: of the draws.
    """
    length = len(scores.impostor)
    if not scores.complete:
        length = min(length, max((tail_length(far, scores.impostors) for far in fars), default=length))
    ranks, stands_for = thinned(length)
    tail, tail_people = scores.impostor[ranks], PairWeights(scores.identity[scores.impostor_pairs[ranks]])
    genuine_people = PairWeights(scores.identity[scores.genuine_pairs])
    some_left_out = scores.complete and len(tail) < length
    impostor_people = PairWeights(scores.identity[scores.impostor_pairs]) if some_left_out else None
    pictures = np.bincount(scores.identity[scores.identity >= 0], minlength=scores.identities)

    # Accepted genuine scores if the impostor score at a position is rejected; past the end, if none of the tail is.
    right = np.searchsorted(-scores.genuine, -tail, side="left")
    right = np.append(right, len(scores.genuine) if scores.complete else right[-1])
    # Tied scores stand or fall together: where those of each impostor score begin and end.
    first, after = (np.searchsorted(-tail, -tail, side=side) for side in ("left", "right"))
    above, down_to = (np.searchsorted(-tail, -scores.genuine, side=side) for side in ("left", "right"))
    thresholds = np.unique(np.concatenate([scores.genuine, tail]))[::-1]
    if not scores.complete:
        thresholds = thresholds[thresholds > tail[-1]]
    genuine_at = np.append(0, np.searchsorted(-scores.genuine, -thresholds, side="right"))
    impostor_at = np.append(0, np.searchsorted(-tail, -thresholds, side="right"))

    rates = np.asarray(fars, np.float64)
    result = RateReplicates(*(np.full(shape, np.nan) for shape in ((len(rates), replicates), replicates, replicates)))
    for number, counts in enumerate(draws(scores.identities, replicates, seed)):
        genuine = genuine_people.weights(counts)
        matched, accepted = sums_of(genuine), sums_of(tail_people.weights(counts) * stands_for)
        if impostor_people is not None:
            impostors = impostor_people.weights(counts).sum()
        elif scores.complete:
            impostors = accepted[-1]
        else:
            drawn = counts * pictures
            impostors = (drawn.sum() ** 2 - (drawn**2).sum()) // 2
        if not impostors or not matched[-1]:
            continue
        rejected = first_rejected(accepted, rates * impostors, first, after, rule)
        result.tar[:, number] = matched[right[rejected]] / matched[-1]

        def fmr(point: int, sums: Int64[np.ndarray, " k"] = accepted, total: int = int(impostors)) -> float:
            return float(sums[impostor_at[point]]) / total

        def fnmr(point: int, sums: Int64[np.ndarray, " k"] = matched) -> float:
            return 1.0 - float(sums[genuine_at[point]] / sums[-1])

        meets = bisect_left(range(len(genuine_at)), 0.0, key=lambda point: fmr(point) - fnmr(point))
        if meets < len(genuine_at):
            result.eer[number] = crossing(fmr(meets - 1), fnmr(meets - 1), fmr(meets), fnmr(meets))
        if scores.complete:
            higher = accepted[-1] - (accepted[above] + accepted[down_to]) / 2
            result.auc[number] = (genuine @ higher) / (matched[-1] * accepted[-1])
    return result


def first_rejected(
    accepted: Int64[np.ndarray, " k+1"],
    allowed: Float64[np.ndarray, " fars"],
    first: Int64[np.ndarray, " k"],
    after: Int64[np.ndarray, " k"],
    rule: FarRule,
) -> Int64[np.ndarray, " fars"]:
    """The position of the highest impostor score that is rejected, for each false accept rate; k if none is.

    Args:
        accepted: the weight of the highest 0, 1, ..., k impostor scores in a draw.
        allowed: the weight that may be accepted.
        first: where the scores that tie with each begin.
        after: where they end.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
    """
    allowed = allowed * (1 + 1e-12)  # 29 of 100 are not more than .29, whatever .29 · 100 is in binary
    rejected: Int64[np.ndarray, " fars"] = np.searchsorted(accepted[1:], allowed, side="right")
    if rule == "nearest":
        (some,) = np.nonzero(rejected < len(after))
        with_the_tied = accepted[after[rejected[some]]]
        nearer = with_the_tied - allowed[some] <= allowed[some] - accepted[first[rejected[some]]]
        rejected[some[nearer]] = np.searchsorted(accepted[1:], with_the_tied[nearer], side="right")
    return rejected


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
        correct: whether each pair was told rightly.
        same: whether it shows one person.
        share: what each pair contributes to the accuracy; sums to 1.
        people: the people on it.
        replicates: number of draws.
        seed: of the draws.
    """
    kinds = [
        (share[kind], share[kind] * correct[kind], PairWeights(people[kind])) for kind in (same, ~same) if kind.any()
    ]
    result = np.zeros(replicates)
    with np.errstate(invalid="ignore"):
        for number, counts in enumerate(draws(int(people.max(initial=-1)) + 1, replicates, seed)):
            for shares, correct_shares, shown in kinds:
                weights = shown.weights(counts)
                result[number] += shares.sum() * (correct_shares @ weights) / (shares @ weights)
    return result.round(12)  # all right is 1, whatever sums of shares are in binary


def interval(
    replicates: Float64[np.ndarray, " replicates"], people: int, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> tuple[float, float] | None:
    """The 95 % percentile interval; None if there is no telling.

    There is none with fewer than two people, without replicates, or if most draws hold no pairs of a kind. If no draw
    differs from another because a rate is at one of its ``bounds``, no error (or no success) was seen at all and the
    bootstrap would claim certainty; the bound of Clopper and Pearson for so many independent people is given instead:
    1 − .025^(1/people) away.
    """
    valid = replicates[np.isfinite(replicates)]
    if people < 2 or not len(valid) or 2 * len(valid) < len(replicates):
        return None
    low, high = (float(end) for end in np.quantile(valid, [0.025, 0.975]))
    if bounds is not None and valid.min() == valid.max() and low in bounds:
        reach = (bounds[1] - bounds[0]) * (1 - 0.025 ** (1 / people))
        low, high = (low, low + reach) if low == bounds[0] else (high - reach, high)
    return low, high


def thinned(length: int) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Ranks 0 … length − 1, thinned by half at 50,000 and at each doubling, and how many ranks each stands for."""
    parts, start, step = [np.arange(min(length, _FINE))], _FINE, 2
    while start < length:
        parts.append(np.arange(start, min(2 * start, length), step))
        start, step = 2 * start, 2 * step
    ranks = np.concatenate(parts)
    return ranks, np.diff(ranks, append=length)


def sums_of(weights: Int64[np.ndarray, " p"]) -> Int64[np.ndarray, " p+1"]:
    """The sum of the first k weights, for k = 0 … p."""
    return np.concatenate([[0], np.cumsum(weights)])


def draws(identities: int, replicates: int, seed: int) -> Iterator[Int64[np.ndarray, " identities"]]:
    """How often each person is drawn; a replicate has its own generator, so that its draw depends on nothing else."""
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
