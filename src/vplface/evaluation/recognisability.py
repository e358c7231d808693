"""Recognisability of pictures: how far an embedding is from the direction that poor pictures share.

What a model cannot recognise it maps near to one direction, whoever it shows. With f the normalised mean of the poor
pictures' embeddings, the recognisability of a picture with embedding x is min(1 − ⟨f, x⟩, 1): Deng, Xiong, Wang, Xia
and Soatto, "Harnessing Unrecognizable Faces for Improving Face Recognition", 2021. They find the poor pictures by
clustering; here it is known which they are.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Int64


def mean_direction(embeddings: Float64[np.ndarray, "k dim"]) -> Float64[np.ndarray, " dim"]:
    """The normalised mean of embeddings of unit norm; zero if they cancel."""
    total = embeddings.sum(axis=0)
    direction: Float64[np.ndarray, " dim"] = total / (np.linalg.norm(total) or 1.0)
    return direction


def recognisability(cosine: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The score of pictures by the cosine of their embeddings with the mean direction of poor pictures, in 0..1."""
    return np.clip(1.0 - cosine, 0.0, 1.0)


def norm_of_mean(
    embeddings: Float64[np.ndarray, "k dim"],
    person: Int[np.ndarray, " k"],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> Float64[np.ndarray, " replicates"]:
    """The norm of the mean of embeddings of unit norm, from pairs of two people; NaN if a draw has no such pairs.

    The squared norm of a mean is the mean cosine of all pairs, those of a picture with itself included. Those and the
    pairs of one person are left out: they would raise the norm of few pictures and of people with many. The norm is
    the root of the mean cosine, and 0 if that is negative.

    Args:
        embeddings: of the pictures.
        person: on each picture.
        drawn: how often each person is drawn; a pair of a and b weighs c_a·c_b.
    """
    people = drawn.shape[1]
    count = np.bincount(person, minlength=people)
    sums = np.zeros((people, embeddings.shape[1]))
    np.add.at(sums, person, embeddings)
    squared = drawn**2
    cosines = ((drawn @ sums) ** 2).sum(axis=1) - squared @ (sums**2).sum(axis=1)
    pairs = (drawn @ count) ** 2 - squared @ count**2
    with np.errstate(invalid="ignore", divide="ignore"):
        norm: Float64[np.ndarray, " replicates"] = np.sqrt(np.maximum(cosines / pairs, 0.0))
    return norm
