"""Nearest strangers: by hand on a circle, against a search by force, and hard errors against counting."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.errors import DataError
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.hard_pairs import HardPairs, hard_errors, nearest_strangers
from vplface.evaluation.tar_at_far import tar_at_far


def on_circle(*degrees):
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def crowd(people=20, pictures=3, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), pictures)
    x = rng.normal(size=(people, dim))[labels] + 0.7 * rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def test_nearest_strangers_on_a_circle():
    # means at 0, 10, 50 and 170 degrees; the last person's nearest is the third
    x = on_circle(-4, 4, 10, 50, 160, 180)
    identity = np.array([0, 0, 1, 2, 3, 3])
    assert nearest_strangers(x, identity, 1).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert nearest_strangers(x, identity, 2).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]


@pytest.mark.parametrize("k", [1, 3, 19])
def test_nearest_strangers_agrees_with_sorting_all_cosines(k):
    x, labels = crowd()
    means = np.array([x[labels == person].mean(axis=0) for person in range(20)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosine = means @ means.T
    np.fill_diagonal(cosine, -2)
    expected = {tuple(sorted((a, int(b)))) for a in range(20) for b in np.argsort(-cosine[a])[:k]}
    assert set(map(tuple, nearest_strangers(x, labels, k).tolist())) == expected


def test_nearest_strangers_never_pairs_a_person_with_the_same_person():
    x = np.tile([[0.6, 0.8]], (12, 1))  # everybody is as near as everybody else
    found = nearest_strangers(x, np.arange(12), 2)
    assert (found[:, 0] < found[:, 1]).all()


def test_nearest_strangers_does_not_depend_on_names_and_order():
    x, labels = crowd()
    names, order = np.random.default_rng(1).permutation(20), np.random.default_rng(2).permutation(60)
    before = {frozenset((int(names[a]), int(names[b]))) for a, b in nearest_strangers(x, labels, 3)}
    assert {frozenset(pair) for pair in nearest_strangers(x[order], names[labels][order], 3).tolist()} == before


@pytest.mark.parametrize("k", [0, 20, 25])
def test_nearest_strangers_refuses_more_strangers_than_there_are(k):
    with pytest.raises(DataError, match=rf"--hard {k}: each of 20 people has 19 strangers; give 1 to 19"):
        nearest_strangers(*crowd(), k)


def test_nearest_strangers_refuses_a_mean_without_a_direction():
    with pytest.raises(DataError, match="cancel"):
        nearest_strangers(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([0, 0, 1]), 1)


def test_hard_errors_agrees_with_counting_pair_by_pair():
    x, labels = crowd()
    scores = score_all_pairs(x, labels, 10**6).scores
    hard = HardPairs.of(x, scores, 2)
    threshold = tar_at_far(scores.genuine, scores.impostor, 0.05).threshold
    found = hard_errors(hard, {"far=5e-2": threshold}, {"far=5e-2": 0.05}, "strict", 20, 0)
    near = set(map(tuple, nearest_strangers(x, labels, 2).tolist()))
    cosines = np.array(
        [x[i] @ x[j] for i in range(60) for j in range(60) if labels[i] < labels[j] and (labels[i], labels[j]) in near]
    )
    at = found["at"]["far=5e-2"]
    assert (found["impostors"], found["pairs_of_people"]) == (len(cosines), len(near))
    assert at["fmr"]["value"] == pytest.approx((cosines >= threshold).mean())
    assert at["fmr"]["value"] > 0.05
    assert (cosines >= at["moved"]["threshold"]).mean() == pytest.approx(at["moved"]["actual_far"])
    assert at["moved"]["threshold"] > threshold
    assert at["moved"]["fnmr"]["value"] == pytest.approx((scores.genuine < at["moved"]["threshold"]).mean())
    assert at["moved"]["fnmr"]["value"] >= at["fnmr"]["value"]


def test_hard_errors_among_all_strangers_are_those_of_all_pairs():
    x, labels = crowd()
    scores = score_all_pairs(x, labels, 10**6).scores
    point = tar_at_far(scores.genuine, scores.impostor, 0.05)
    hard = HardPairs.of(x, scores, 19)
    at = hard_errors(hard, {"x": point.threshold}, {"x": 0.05}, "strict", 20, 0)["at"]["x"]
    assert at["fmr"]["value"] == point.actual_far
    assert at["moved"]["threshold"] == pytest.approx(point.threshold, abs=1e-6)
    assert at["moved"]["fnmr"]["value"] == 1 - point.tar


def test_hard_errors_says_why_there_is_no_threshold():
    x, labels = crowd()
    scores = score_all_pairs(x, labels, 10**6).scores
    found = hard_errors(HardPairs.of(x, scores, 1), {"x": 0.5}, {"x": 1e-6}, "strict", 20, 0)
    moved = found["at"]["x"]["moved"]
    assert moved["threshold"] is None
    assert "needs at least 1,000,000 impostor pairs" in moved["reason"]
