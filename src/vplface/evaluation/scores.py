"""The scores of a model on pairs, with the people behind each pair."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float64, Int


@dataclass(frozen=True, eq=False)
class Scores:
    """Similarities of genuine and of impostor pairs, each from highest to lowest.

    Attributes:
        genuine: all genuine similarities.
        genuine_pairs: the two pictures of each.
        impostor: the highest impostor similarities, or all.
        impostor_pairs: the two pictures of each.
        impostors: how many impostor pairs there are. If that is more than ``impostor`` holds, the pairs are all pairs
            of the pictures with an identity.
        identity: the person on each picture, 0, 1, ...; −1 for pictures that no pair uses.
    """

    genuine: Float[np.ndarray, " g"]
    genuine_pairs: Int[np.ndarray, "g 2"]
    impostor: Float[np.ndarray, " k"]
    impostor_pairs: Int[np.ndarray, "k 2"]
    impostors: int
    identity: Int[np.ndarray, " n"]

    @cached_property
    def identities(self) -> int:
        """How many people there are."""
        return int(self.identity.max(initial=-1)) + 1

    @cached_property
    def complete(self) -> bool:
        """Whether every impostor score is here."""
        return self.impostors == len(self.impostor)


def scores_of_pairs(
    similarity: Float64[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    left: Int[np.ndarray, " p"],
    right: Int[np.ndarray, " p"],
    labels: Int[np.ndarray, " n"],
) -> Scores:
    """Sort the scores of a list of pairs.

    Args:
        similarity: cosine of each pair.
        same: whether it shows one person.
        left: one picture of each pair.
        right: the other.
        labels: identity of each picture of the set.
    """
    used = np.unique(np.concatenate([left, right]))
    identity = np.full(len(labels), -1, np.int64)
    identity[used] = np.unique(labels[used], return_inverse=True)[1]
    pairs = np.stack([left, right], axis=1)
    order = np.argsort(-similarity, kind="stable")
    genuine, impostor = order[same[order]], order[~same[order]]
    return Scores(similarity[genuine], pairs[genuine], similarity[impostor], pairs[impostor], len(impostor), identity)


def cosine(
    embeddings: Float64[np.ndarray, "n dim"], left: Int[np.ndarray, " p"], right: Int[np.ndarray, " p"]
) -> Float64[np.ndarray, " p"]:
    """Cosine similarity of pairs of rows of unit norm."""
    similarity = np.empty(len(left))
    for start in range(0, len(left), 8192):
        part = slice(start, start + 8192)
        similarity[part] = np.einsum("pd,pd->p", embeddings[left[part]], embeddings[right[part]])
    return np.clip(similarity, -1.0, 1.0)
