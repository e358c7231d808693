"""Made-up people with embeddings, lists of their pairs, and draws of them."""

from __future__ import annotations

import numpy as np

from vplface.evaluation.scores import scores_of_pairs


def people(rng, identities, pictures, dim=8, noise=1.0):
    """Embeddings of unit norm and labels of so many people with so many pictures each."""
    labels = np.repeat(np.arange(identities), pictures)
    x = rng.normal(size=(identities, dim))[labels] + noise * rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def listed(rng, x, labels, pairs, decimals=None):
    """The scores of a random list of pairs, and the list: similarity, same, left, right."""
    left, right = rng.integers(len(x), size=(2, pairs))
    left, right = left[left != right], right[left != right]
    similarity = (x[left] * x[right]).sum(axis=1)
    similarity = similarity if decimals is None else similarity.round(decimals)
    same = labels[left] == labels[right]
    return scores_of_pairs(similarity, same, left, right, labels), similarity, same, left, right


def drawn(seed, number, identities):
    """How often each person is in a draw, by the definition."""
    return np.bincount(
        np.random.default_rng((seed, number)).integers(identities, size=identities), minlength=identities
    )


def repeated(values, people, counts):
    """Each value as often as its pair of people weighs in a draw."""
    a, b = people.T
    return np.repeat(values, np.where(a == b, counts[a], counts[a] * counts[b]))
