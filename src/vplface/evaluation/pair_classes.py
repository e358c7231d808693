"""Pairs and errors by class of pair at common thresholds, with their replicates over draws of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

from vplface.evaluation.bootstrap import PairWeights, draws
from vplface.evaluation.scores import Scores


@dataclass(frozen=True, eq=False)
class PairClasses:
    """Classes of pairs, by the parts of the set that their two pictures are in.

    Attributes:
        part: of each picture, 0, 1, ...; −1 for a picture of none.
        members: the two parts of each class. No two classes have the same; a pair of other parts is in no class.
    """

    part: Int64[np.ndarray, " n"]
    members: Sequence[tuple[int, int]]

    def of(self, pairs: Int[np.ndarray, "p 2"]) -> Int64[np.ndarray, " p"]:
        """The class of each pair; −1 for a pair of none."""
        parts = 1 + max(part for both in self.members for part in both)
        table = np.full((parts + 1, parts + 1), -1)  # −1, no part, is the last row and column
        for number, (first, second) in enumerate(self.members):
            table[first, second] = table[second, first] = number
        left, right = self.part[pairs].T
        classes: Int64[np.ndarray, " p"] = table[left, right]
        return classes

    def people(self, identity: Int[np.ndarray, " n"]) -> list[int]:
        """How many people have pictures in a part of each class; an identity of −1 is nobody."""
        used = identity >= 0
        return [len(np.unique(identity[used & np.isin(self.part, both)])) for both in self.members]


@dataclass(frozen=True, eq=False)
class Counted:
    """Pairs of one kind in each class, and the errors among them.

    Attributes:
        pairs: the number in each class.
        errors: the number of errors at each threshold in each class.
        drawn_pairs: the weight of the pairs in each draw of people.
        drawn_errors: the weight of the errors in each draw.
    """

    pairs: Float64[np.ndarray, " classes"]
    errors: Float64[np.ndarray, "thresholds classes"]
    drawn_pairs: Float64[np.ndarray, "replicates classes"]
    drawn_errors: Float64[np.ndarray, "replicates thresholds classes"]

    @property
    def rates(self) -> Float64[np.ndarray, "thresholds classes"]:
        """The share of errors among the pairs of each class; NaN without pairs."""
        return _ratio(self.errors, self.pairs)

    @property
    def drawn_rates(self) -> Float64[np.ndarray, "replicates thresholds classes"]:
        """The rates in each draw."""
        return _ratio(self.drawn_errors, self.drawn_pairs[:, None])

    @property
    def shares(self) -> Float64[np.ndarray, "thresholds classes"]:
        """The share of each class among the errors; NaN without errors."""
        return _ratio(self.errors, self.errors.sum(axis=-1, keepdims=True))

    @property
    def drawn_shares(self) -> Float64[np.ndarray, "replicates thresholds classes"]:
        """The shares in each draw."""
        return _ratio(self.drawn_errors, self.drawn_errors.sum(axis=-1, keepdims=True))


def count_errors(
    scores: Scores, classes: PairClasses, thresholds: Mapping[str, float], replicates: int, seed: int
) -> dict[str, Counted]:
    """The pairs and the errors of each class: ``"fnmr"`` of genuine pairs, ``"fmr"`` of impostor pairs.

    Args:
        scores: of all pairs; if only the highest impostor scores are available, they must reach below the thresholds.
        classes: of the pairs.
        thresholds: {operating point: threshold}; a draw keeps them.
        replicates: draws of people; 0 for none.
        seed: of the draws.
    """
    # Scores are descending: errors are the genuine pairs after the accepted ones, and the accepted impostor pairs.
    rejected = [slice(np.searchsorted(-scores.genuine, -t, side="right"), None) for t in thresholds.values()]
    accepted = [slice(0, np.searchsorted(-scores.impostor, -t, side="right")) for t in thresholds.values()]
    impostor_pairs, pictures = scores.impostor_pairs, None
    if not scores.complete:  # then the pairs are all pairs of the pictures, and those not accepted need no look
        impostor_pairs = impostor_pairs[: max((part.stop for part in accepted), default=0)]
        pictures = _pictures(scores, classes)
    kinds = {
        "fnmr": _Kind(scores, classes, scores.genuine_pairs, rejected),
        "fmr": _Kind(scores, classes, impostor_pairs, accepted, pictures),
    }
    drawn: dict[str, list[_Weighed]] = {kind: [] for kind in kinds}
    if replicates:
        for counts in draws(scores.identities, replicates, seed):
            for kind, pairs in kinds.items():
                drawn[kind].append(pairs.weigh(counts))
    once = np.ones(scores.identities, np.int64)
    shape = (len(drawn["fmr"]), len(thresholds), len(classes.members))
    return {
        kind: Counted(
            *pairs.weigh(once),
            np.array([of_all for of_all, _ in drawn[kind]], np.float64).reshape(shape[0], shape[2]),
            np.array([errors for _, errors in drawn[kind]], np.float64).reshape(shape),
        )
        for kind, pairs in kinds.items()
    }


_Weighed = tuple[Float64[np.ndarray, " classes"], Float64[np.ndarray, "thresholds classes"]]
"""The weight of all pairs and of the errors in each class."""


@dataclass(frozen=True, eq=False)
class _AllPictures:
    """The number of pictures of each person in each part, where all pictures are compared with all."""

    count: Int64[np.ndarray, "identities parts"]
    members: Sequence[tuple[int, int]]

    def pairs(self, counts: Int64[np.ndarray, " identities"]) -> Float64[np.ndarray, " classes"]:
        """The weight of the impostor pairs of each class in a draw: all pairs less those of one person."""
        drawn = (counts[:, None] * self.count).astype(np.float64)
        in_part = drawn.sum(axis=0)
        between = np.outer(in_part, in_part) - drawn.T @ drawn
        return np.array([between[a, b] / (2 if a == b else 1) for a, b in self.members])


class _Kind:
    """Genuine or impostor pairs, ready to be weighed by many draws."""

    def __init__(
        self,
        scores: Scores,
        classes: PairClasses,
        pairs: Int[np.ndarray, "p 2"],
        errors: list[slice],
        all_pictures: _AllPictures | None = None,
    ) -> None:
        self._class = classes.of(pairs) + 1
        self._weights = PairWeights(scores.identity[pairs])
        self._errors = errors
        self._all = all_pictures
        self._count = len(classes.members)

    def weigh(self, counts: Int64[np.ndarray, " identities"]) -> _Weighed:
        """The weight of all pairs, and of the errors at each threshold."""
        weights = self._weights.weights(counts)
        of_all = self._sums(weights, slice(None)) if self._all is None else self._all.pairs(counts)
        errors = [self._sums(weights, part) for part in self._errors]
        return of_all, np.array(errors, np.float64).reshape(len(errors), self._count)

    def _sums(self, weights: Int64[np.ndarray, " p"], part: slice) -> Float64[np.ndarray, " classes"]:
        sums = np.bincount(self._class[part], weights[part], minlength=self._count + 1)[1:]
        return sums.astype(np.float64, copy=False)  # those of no pairs are integers


def _pictures(scores: Scores, classes: PairClasses) -> _AllPictures:
    parts = 1 + max(part for both in classes.members for part in both)
    count = np.zeros((scores.identities, parts), np.int64)
    used = (scores.identity >= 0) & (classes.part >= 0)
    np.add.at(count, (scores.identity[used], classes.part[used]), 1)
    return _AllPictures(count, classes.members)


def _ratio(some: Float64[np.ndarray, ...], of: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Float64[np.ndarray, ...] = some / of
    return ratio
