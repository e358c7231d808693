"""False matches that are left if the poorest pictures are discarded and the threshold stays.

A gate that lowers FNMR may raise FMR: poor pictures can be those that match nobody. So the FMR of the pairs that are
left is measured as well. Where all pictures are compared with all, the impostor pairs that are left need not be listed:
with N_a pictures of person a left, drawn c_a times, their weight is ((Σ c_a N_a)² − Σ (c_a N_a)²)/2. The second sum
grows by c_a²(2k − 1) with the k-th picture of a person.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from vplface.evaluation.bootstrap import PairWeights
from vplface.evaluation.scores import Scores


class FalseMatches:
    """Impostor pairs of pictures with a quality, ready for many draws of people.

    Args:
        quality: of each picture, higher is better; of pictures that are not compared anything.
        scores: of the pairs; if only the highest impostor scores are known, they must reach below the threshold.
        threshold: of the comparison.
    """

    def __init__(self, quality: Float[np.ndarray, " n"], scores: Scores, threshold: float) -> None:
        used = np.flatnonzero(scores.identity >= 0)
        levels, rank_of_used = np.unique(quality[used].astype(np.float64), return_inverse=True)
        rank = np.zeros(len(quality), np.int64)
        rank[used] = rank_of_used
        self._count = len(levels)
        accepted = int(np.searchsorted(-scores.impostor, -threshold, side="right"))
        self._all_pictures = _compares_all(scores, len(used))
        pairs = scores.impostor_pairs[:accepted] if self._all_pictures else scores.impostor_pairs
        self._pair_rank, self._accepted = rank[pairs].min(axis=1, initial=self._count), slice(0, accepted)
        self._weights = PairWeights(scores.identity[pairs])
        falling = np.argsort(-rank_of_used, kind="stable")
        self._rank, self._person = rank_of_used[falling], scores.identity[used][falling]
        self._turn = _turns(self._person)

    def fmr(self, counts: Int64[np.ndarray, " identities"]) -> Float64[np.ndarray, " levels"]:
        """The FMR of the pairs of two pictures at each level of quality or above it; NaN where no pair is left.

        Args:
            counts: how often each person is drawn.
        """
        weights = self._weights.weights(counts).astype(np.float64)
        matched = self._from_level(self._pair_rank[self._accepted], weights[self._accepted])
        if self._all_pictures:
            count = counts[self._person].astype(np.float64)
            of_all, of_one = (self._from_level(self._rank, each) for each in (count, count**2 * (2 * self._turn - 1)))
            left = (of_all**2 - of_one) / 2
        else:
            left = self._from_level(self._pair_rank, weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate: Float64[np.ndarray, " levels"] = matched / left
        return rate

    def _from_level(
        self, rank: Int64[np.ndarray, " p"], weights: Float64[np.ndarray, " p"]
    ) -> Float64[np.ndarray, " levels"]:
        """The weight of what is at each level or above it."""
        at_level = np.bincount(rank, weights, self._count).astype(np.float64)
        above: Float64[np.ndarray, " levels"] = np.cumsum(at_level[::-1])[::-1]
        return above


def _compares_all(scores: Scores, pictures: int) -> bool:
    """Whether the pairs are all pairs of the pictures, each once."""
    if not scores.complete:
        return True
    pairs = np.concatenate([scores.genuine_pairs, scores.impostor_pairs]).astype(np.int64)
    if len(pairs) != pictures * (pictures - 1) // 2:
        return False
    keys = pairs.min(axis=1) * len(scores.identity) + pairs.max(axis=1)
    return len(np.unique(keys)) == len(keys)


def _turns(person: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """For each place, how many of its person are there or before it."""
    grouped = np.argsort(person, kind="stable")
    sizes = np.bincount(person)
    turns = np.empty(len(person), np.int64)
    turns[grouped] = np.arange(len(person)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    return turns
