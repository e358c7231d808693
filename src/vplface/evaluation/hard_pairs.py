"""Hard impostors: the pairs of each person with the k nearest strangers.

Most random pairs are easy. In use, strangers meet who resemble each other: relatives, or the most similar of a large
gallery. A person is represented by the mean of the embeddings of their pictures, at unit norm; the nearest strangers
are the people with the highest cosines. A pair of people is hard if one of the two is among the k nearest strangers of
the other. All pairs of their pictures are compared. The choice depends on the model and on the people: among more
people the nearest are nearer. A draw of people keeps who is whose nearest stranger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int64

from vplface.errors import DataError
from vplface.evaluation.claims import independent_comparisons
from vplface.evaluation.figure import Figure
from vplface.evaluation.promise import rates_at
from vplface.evaluation.roc_replicates import rate_replicates
from vplface.evaluation.scores import Scores, cosine
from vplface.evaluation.search import search
from vplface.evaluation.tar_at_far import FarRule, TooFewImpostorsError, tar_at_far

_MOST_PAIRS = 50_000_000


@dataclass(frozen=True, eq=False)
class HardPairs:
    """Genuine pairs of some people, and the impostor pairs of nearest strangers.

    Attributes:
        k: nearest strangers of each person.
        people: the hard pairs of people.
        scores: of the pairs of pictures.
    """

    k: int
    people: Int64[np.ndarray, "h 2"]
    scores: Scores

    @classmethod
    def of(cls, embeddings: Float64[np.ndarray, "n dim"], scores: Scores, k: int) -> HardPairs:
        """The hard pairs of pictures that are all compared with each other.

        Args:
            embeddings: of unit norm.
            scores: of all pairs.
            k: nearest strangers of each person.

        Raises:
            DataError: not more than k people, a person whose pictures cancel, or too many pairs.
        """
        people = nearest_strangers(embeddings, scores.identity, k)
        pictures = np.argsort(scores.identity, kind="stable")
        count = np.bincount(scores.identity)
        total = int((count[people[:, 0]] * count[people[:, 1]]).sum())
        if total > _MOST_PAIRS:
            raise DataError(f"--hard {k} compares {total:,} pairs; at most {_MOST_PAIRS:,}: lower it")
        begin = np.cumsum(count) - count
        pairs = np.concatenate([_products(pictures, begin, count, a, b) for a, b in people.tolist()])
        similarity = cosine(embeddings, pairs[:, 0], pairs[:, 1]).astype(scores.genuine.dtype)
        order = np.argsort(-similarity, kind="stable")
        hard = Scores(
            scores.genuine, scores.genuine_pairs, similarity[order], pairs[order], len(pairs), scores.identity
        )
        return cls(k, people, hard)


def nearest_strangers(
    embeddings: Float64[np.ndarray, "n dim"], identity: Int[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, "h 2"]:
    """Pairs of people of whom one is among the k nearest strangers of the other, each pair once and in order.

    Args:
        embeddings: of unit norm.
        identity: the person on each, 0, 1, ….
        k: nearest strangers of each person.

    Raises:
        DataError: not more than k people, or a person whose pictures cancel.
    """
    people = int(identity.max(initial=-1)) + 1
    if not 0 < k < people:
        raise DataError(f"--hard {k}: each of {people} people has {people - 1} strangers; give 1 to {people - 1}")
    sums = np.zeros((people, embeddings.shape[1]))
    np.add.at(sums, identity, embeddings)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise DataError("--hard: the embeddings of a person cancel, so that their mean has no direction")
    means = (sums / norms).astype(np.float32)
    _, found = search(means, [means], k + 1)
    own = np.arange(people)[:, None]
    stranger = found != own
    stranger[stranger.all(axis=1), -1] = False  # as near as many others: the person is not among the first
    left, right = np.broadcast_to(own, found.shape)[stranger], found[stranger]
    pairs: Int64[np.ndarray, "h 2"] = np.unique(np.sort(np.stack([left, right], axis=1), axis=1), axis=0)
    return pairs


def hard_errors(
    hard: HardPairs,
    thresholds: Mapping[str, float],
    fars: Mapping[str, float],
    rule: FarRule,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """How FMR at thresholds and thresholds at false accept rates move from all impostors to the hard ones.

    Args:
        hard: the pairs.
        thresholds: on all pairs, by the key of the operating point.
        fars: the false accept rate of each.
        rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        replicates: draws of people, at least two.
        seed: of the draws.

    Returns:
        ``"k"``, ``"pairs_of_people"``, ``"impostors"``, and ``"at"``: for each point ``"threshold"``, ``"fmr"`` and
        ``"fnmr"`` on hard impostors at it, and ``"moved"``: the ``"threshold"`` that keeps the false accept rate on
        hard impostors, and the ``"fnmr"`` there; or a ``"reason"``.
    """
    scores = hard.scores
    rates = rates_at(scores, dict(thresholds), independent_comparisons(hard.people), replicates, seed)
    return {
        "k": hard.k,
        "nearest_by": "cosine of the mean embeddings of people",
        "pairs_of_people": len(hard.people),
        "impostors": scores.impostors,
        "at": {
            point: {
                "threshold": threshold,
                **{kind: rate.to_json() for kind, rate in rates[point].items()},
                "moved": _moved(scores, fars[point], rule, replicates, seed),
            }
            for point, threshold in thresholds.items()
        },
    }


def _moved(scores: Scores, far: float, rule: FarRule, replicates: int, seed: int) -> dict[str, Any]:
    try:
        point = tar_at_far(scores.genuine, scores.impostor, far, rule)
    except TooFewImpostorsError as error:
        return {"threshold": None, "actual_far": None, "fnmr": Figure(None).to_json(), "reason": str(error)}
    people = len(np.unique(scores.identity[scores.genuine_pairs]))
    drawn = rate_replicates(scores, [far], rule, replicates, seed).tar[0]
    fnmr = Figure(1 - point.tar, count=people).resampled(1 - drawn)
    return {"threshold": point.threshold, "actual_far": point.actual_far, "fnmr": fnmr.to_json()}


def _products(
    pictures: Int64[np.ndarray, " n"], begin: Int64[np.ndarray, " people"], count: Int64[np.ndarray, " people"],
    a: int, b: int,
) -> Int64[np.ndarray, "p 2"]:  # fmt: skip
    """All pairs of a picture of person a and one of person b."""
    first, second = (pictures[begin[each] : begin[each] + count[each]] for each in (a, b))
    pairs: Int64[np.ndarray, "p 2"] = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)
    return pairs
