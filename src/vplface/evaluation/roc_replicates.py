"""Replicates of the rates of a ROC, one for each draw of people.

:mod:`vplface.evaluation.bootstrap` defines draws and the weight of a pair in a draw. Only the highest impostor scores
need to be known, of fifteen million pairs of templates or three billion comparisons with a gallery: the others count
only by their total weight. A replicate that needs more impostor scores than are known stops at the last; its TAR
is then a little too low.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from vplface.evaluation.bootstrap import PairWeights, draws
from vplface.evaluation.error_rates import crossing
from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import FarRule

_FINE = 50_000
"""The number of highest impostor scores that are used one by one; lower ones are thinned."""


def tail_length(far: float, impostors: int) -> int:
    """The number of highest impostor scores that the replicates at a false accept rate need.

    A draw may lack the people with the highest scores, so it is four times what the rate needs; the margin is smaller
    where that is millions of scores, of many people.
    """
    needed = far * impostors
    return min(impostors, int(np.ceil(max(1.25 * needed, min(4 * needed, 2_000_000), 20_000))))


@dataclass(frozen=True, eq=False)
class WeightedScores:
    """Scores from highest to lowest, each weighed by the draws of the people behind it.

    Attributes:
        score: the scores.
        pairs: the two pictures (or templates) that each compares; a probe twice where it alone is weighed.
        person: the person on each picture.
    """

    score: Float[np.ndarray, " k"]
    pairs: Int[np.ndarray, "k 2"]
    person: Int[np.ndarray, " n"]

    @classmethod
    def of_probes(
        cls, score: Float[np.ndarray, " k"], probe: Int[np.ndarray, " k"], person: Int[np.ndarray, " n"]
    ) -> WeightedScores:
        """Scores weighted by how often the person on a probe was drawn."""
        return cls(score, np.stack([probe, probe], axis=1), person)

    def __len__(self) -> int:
        return len(self.score)

    def weights(self, counts: Int64[np.ndarray, " identities"]) -> Int64[np.ndarray, " k"]:
        """The weight of each score in a draw."""
        return self._pair_weights.weights(counts)

    @cached_property
    def _pair_weights(self) -> PairWeights:
        return PairWeights(self.person[self.pairs])


@dataclass(frozen=True, eq=False)
class RateReplicates:
    """The rates of a ROC in each draw; NaN where a draw holds no genuine or no impostor pairs.

    Attributes:
        tar: TAR at each requested false accept rate.
        statistics: each requested statistic of the ROC, by its name.
    """

    tar: Float64[np.ndarray, "fars replicates"]
    statistics: Mapping[str, Float64[np.ndarray, " replicates"]]


def rate_replicates(
    scores: Scores,
    fars: Sequence[float],
    rule: FarRule,
    replicates: int,
    seed: int,
    statistics: Mapping[str, Callable[[RocReplicate], float]] = MappingProxyType({}),
) -> RateReplicates:
    """TAR at false accept rates and statistics of the ROC, for each draw of people.

    Args:
        scores: of the pairs.
        fars: false accept rates.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        replicates: number of draws.
        seed: of the draws.
        statistics: further statistics of the ROC of each draw, by their names.
    """
    length = len(scores.impostor)
    if not scores.complete:
        length = min(length, max((tail_length(far, scores.impostors) for far in fars), default=length))
    genuine = WeightedScores(scores.genuine, scores.genuine_pairs, scores.identity)
    impostor = WeightedScores(scores.impostor[:length], scores.impostor_pairs[:length], scores.identity)
    roc = ResampledRoc(genuine, impostor, scores.complete)
    pictures = np.bincount(scores.identity[scores.identity >= 0], minlength=scores.identities)
    tar = np.full((len(fars), replicates), np.nan)
    others = {name: np.full(replicates, np.nan) for name in statistics}
    for number, counts in enumerate(draws(scores.identities, replicates, seed)):
        all_impostors = None
        if not scores.complete:  # then the pairs are all pairs of the pictures
            drawn = counts * pictures
            all_impostors = int((drawn.sum() ** 2 - (drawn**2).sum()) // 2)
        if (replicate := roc.replicate(counts, all_impostors)) is not None:
            tar[:, number] = replicate.tar(fars, rule)
            for name, statistic in statistics.items():
                others[name][number] = statistic(replicate)
    return RateReplicates(tar, others)


def tar_replicates(
    genuine: WeightedScores,
    impostor: WeightedScores,
    impostor_weight: Float[np.ndarray, " replicates"] | None,
    fars: Sequence[float],
    rule: FarRule,
    draws: Int64[np.ndarray, "replicates identities"],
) -> Float64[np.ndarray, "fars replicates"]:
    """TAR at each false accept rate for each draw; NaN where a draw holds no genuine or no impostor pairs.

    Args:
        genuine: all genuine scores.
        impostor: all impostor scores, or the highest, at least :func:`tail_length` of them.
        impostor_weight: of all impostor scores in each draw; None if ``impostor`` holds all.
        fars: the false accept rates.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        draws: how often each person is drawn.
    """
    roc = ResampledRoc(genuine, impostor, complete=impostor_weight is None)
    result = np.full((len(fars), len(draws)), np.nan)
    for number, counts in enumerate(draws):
        replicate = roc.replicate(counts, None if impostor_weight is None else float(impostor_weight[number]))
        if replicate is not None:
            result[:, number] = replicate.tar(fars, rule)
    return result


class ResampledRoc:
    """A ROC, ready to be weighed by many draws.

    The highest 50,000 impostor scores are used one by one. Below, where single scores do not matter, one score
    represents a group, whose size is a 25,000th of its rank.

    Args:
        genuine: all genuine scores.
        impostor: all impostor scores, or the highest.
        complete: whether they are all.
    """

    def __init__(self, genuine: WeightedScores, impostor: WeightedScores, complete: bool) -> None:
        ranks, self._stands_for = thinned(len(impostor))
        self._genuine, self._complete = genuine, complete
        self._tail = WeightedScores(impostor.score[ranks], impostor.pairs[ranks], impostor.person)
        self._thinned = impostor if len(ranks) < len(impostor) else None
        genuine_rising, tail_rising = -genuine.score, -self._tail.score
        # Accepted genuine scores if the impostor score at a position is rejected; past the end, if none of the tail is.
        right = np.searchsorted(genuine_rising, tail_rising, side="left")
        self.accepted_genuine = np.append(right, len(genuine) if complete else right[-1])
        # Tied scores are accepted or rejected together: where those of each impostor score begin and end.
        self.ties_begin, self.ties_end = _sides(tail_rising, tail_rising)

    def replicate(self, counts: Int64[np.ndarray, " identities"], impostor_weight: float | None) -> RocReplicate | None:
        """The ROC of a draw; None if it holds no genuine or no impostor pairs.

        Args:
            counts: how often each person is drawn.
            impostor_weight: of all impostor scores; None if they are all known.
        """
        genuine = self._genuine.weights(counts)
        matched = sums_of(genuine)
        accepted = sums_of(self._tail.weights(counts) * self._stands_for)
        if impostor_weight is None:
            impostor_weight = accepted[-1] if self._thinned is None else self._thinned.weights(counts).sum()
        if not impostor_weight or not matched[-1]:
            return None
        return RocReplicate(self, genuine, matched, accepted, impostor_weight)

    @cached_property
    def points(self) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " t"]]:
        """The number of genuine and of impostor scores accepted at each threshold, from none on."""
        genuine, tail = self._genuine.score, self._tail.score
        thresholds = np.unique(np.concatenate([genuine, tail]))[::-1]
        if not self._complete:
            thresholds = thresholds[thresholds > tail[-1]]
        at_genuine, at_impostor = (np.searchsorted(-each, -thresholds, side="right") for each in (genuine, tail))
        return np.append(0, at_genuine), np.append(0, at_impostor)

    @cached_property
    def impostors_of_genuine(self) -> tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]] | None:
        """How many impostor scores are above each genuine score, and at or above; None unless all are known."""
        return _sides(-self._tail.score, -self._genuine.score) if self._complete else None


@dataclass(frozen=True, eq=False)
class RocReplicate:
    """The ROC of one draw.

    Attributes:
        roc: the ROC that was resampled.
        genuine: the weight of each genuine score.
        matched: the weight of the highest 0, 1, ..., g genuine scores.
        accepted: the weight of the highest 0, 1, ..., k impostor scores of the tail.
        impostors: the weight of all impostor scores.
    """

    roc: ResampledRoc
    genuine: Int64[np.ndarray, " g"]
    matched: Int64[np.ndarray, " g+1"]
    accepted: Int64[np.ndarray, " tail"]
    impostors: float

    def tar(self, fars: Sequence[float], rule: FarRule) -> Float64[np.ndarray, " fars"]:
        """TAR at each false accept rate."""
        allowed = np.asarray(fars, np.float64) * self.impostors
        rejected = first_rejected(self.roc.ties_begin, self.roc.ties_end, self.accepted, allowed, rule)
        tar: Float64[np.ndarray, " fars"] = self.matched[self.roc.accepted_genuine[rejected]] / self.matched[-1]
        return tar

    def eer(self) -> float:
        """The equal error rate; NaN if the tail does not reach down to it."""
        genuine_at, impostor_at = self.roc.points

        def fmr(point: int) -> float:
            return float(self.accepted[impostor_at[point]]) / int(self.impostors)

        def fnmr(point: int) -> float:
            return 1.0 - float(self.matched[genuine_at[point]] / self.matched[-1])

        meets = bisect_left(range(len(genuine_at)), 0.0, key=lambda point: fmr(point) - fnmr(point))
        if meets == len(genuine_at):
            return float("nan")
        return crossing(fmr(meets - 1), fnmr(meets - 1), fmr(meets), fnmr(meets))

    def auc(self) -> float:
        """The area under the curve; NaN unless all impostor scores are known."""
        if self.roc.impostors_of_genuine is None:
            return float("nan")
        above, down_to = self.roc.impostors_of_genuine
        lower = self.accepted[-1] - (self.accepted[above] + self.accepted[down_to]) / 2
        return float((self.genuine @ lower) / (self.matched[-1] * self.accepted[-1]))


def first_rejected(
    ties_begin: Int64[np.ndarray, " k"],
    ties_end: Int64[np.ndarray, " k"],
    accepted: Int64[np.ndarray, " k+1"],
    allowed: Float64[np.ndarray, " fars"],
    rule: FarRule,
) -> Int64[np.ndarray, " fars"]:
    """The position of the highest impostor score that is rejected, for each false accept rate; k if none is.

    Args:
        ties_begin: start of the scores that tie with each.
        ties_end: end of these scores.
        accepted: the weight of the highest 0, 1, ..., k impostor scores in a draw.
        allowed: the weight that may be accepted.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
    """
    allowed = allowed * (1 + 1e-12)  # 29 of 100 must not exceed .29 by rounding in .29 · 100
    rejected: Int64[np.ndarray, " fars"] = np.searchsorted(accepted[1:], allowed, side="right")
    if rule == "nearest":
        (some,) = np.nonzero(rejected < len(ties_end))
        with_the_tied = accepted[ties_end[rejected[some]]]
        nearer = with_the_tied - allowed[some] <= allowed[some] - accepted[ties_begin[rejected[some]]]
        rejected[some[nearer]] = np.searchsorted(accepted[1:], with_the_tied[nearer], side="right")
    return rejected


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


def _sides(
    rising: Float[np.ndarray, " k"], values: Float[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Start and end of the run of values that equal each one."""
    return np.searchsorted(rising, values, side="left"), np.searchsorted(rising, values, side="right")
