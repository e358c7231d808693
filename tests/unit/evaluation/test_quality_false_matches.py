"""FMR and FNMR of the pairs that are left after discarding: by hand, against loops over pairs, listed or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.quality import QualityQuestion, compare_scores
from vplface.evaluation.quality.false_matches import FalseMatches
from vplface.evaluation.scores import scores_of_pairs


def crowd(people=15, pictures=4, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), pictures)
    x = rng.normal(size=(people, dim))[labels] + 0.8 * rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels, rng.normal(size=len(labels))


def curve(scores, quality, threshold, replicates=0):
    found = compare_scores(scores, QualityQuestion({"q": quality}), {"t": threshold}, replicates, 0)
    return found["at"]["t"]["scores"]["q"]["curve"]


def by_force(similarity, same, pairs, quality, threshold, percent):
    """FNMR and FMR after discarding, by Python's sets and loops."""
    pictures = sorted(set(pairs.ravel().tolist()))
    allowed = len(pictures) * percent // 100
    gone: set[int] = set()
    for value in sorted({quality[each] for each in pictures}):
        tied = {each for each in pictures if quality[each] == value}
        if len(gone) + len(tied) > allowed:
            break
        gone |= tied
    left = [k for k, pair in enumerate(pairs.tolist()) if not gone & set(pair)]
    genuine = [similarity[k] < threshold for k in left if same[k]]
    impostor = [similarity[k] >= threshold for k in left if not same[k]]
    return [np.mean(each) if each else np.nan for each in (genuine, impostor)]


def test_false_matches_by_hand():
    # Three people with one picture each but the first, who has two. All five impostor pairs are compared.
    identity = np.array([0, 0, 1, 2])
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    similarity = np.array([0.9, 0.8, 0.1, 0.1, 0.1, 0.7])
    same = np.array([True, False, False, False, False, False])
    quality = np.array([1.0, 4.0, 3.0, 2.0])
    found = FalseMatches(quality, scores_of_pairs(similarity, same, *pairs.T, identity), 0.5)
    # all: 2 of 5; without picture 0: 1 of 3; of 1 and 2: 0 of 1; of 1 alone: no pair
    np.testing.assert_allclose(found.fmr(np.ones(3, np.int64)), [2 / 5, 1 / 3, 0, np.nan])
    # the first person twice: pairs weigh 2, but [2, 3] weighs 1
    np.testing.assert_allclose(found.fmr(np.array([2, 1, 1])), [3 / 9, 1 / 5, 0, np.nan])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 100]))
def test_curves_agree_with_discarding_pair_by_pair(seed, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=40)
    pairs = rng.integers(40, size=(120, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    similarity = rng.uniform(-1, 1, len(pairs))
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    quality = rng.integers(levels, size=40).astype(float)
    found = curve(scores_of_pairs(similarity, same, *pairs.T, labels), quality, 0.2)
    for percent in (0, 3, 10, 33, 50):
        expected = by_force(similarity, same, pairs, quality, 0.2, percent)
        given_ = [found[kind][percent] for kind in ("fnmr", "fmr")]
        np.testing.assert_allclose(np.array(given_, float), expected)


def test_false_matches_of_all_pairs_are_those_of_the_same_pairs_with_one_twice():
    # A list that names a pair twice is not all pairs: its pairs are counted one by one.
    x, labels, quality = crowd()
    few, every = (score_all_pairs(x, labels, keep).scores for keep in (300, 10**6))
    assert every.complete
    assert not few.complete
    threshold = float(few.impostor[100])
    left, right = np.triu_indices(60, 1)
    left, right = np.append(left, left[0]), np.append(right, right[0])
    similarity = np.einsum("pd,pd->p", x[left], x[right])
    listed = scores_of_pairs(similarity, labels[left] == labels[right], left, right, labels)
    for counts in (np.ones(15, np.int64), np.random.default_rng(0).integers(0, 3, 15)):
        rates = [FalseMatches(quality, each, threshold).fmr(counts) for each in (few, every, listed)]
        np.testing.assert_allclose(rates[0], rates[1])
        np.testing.assert_allclose(rates[1], rates[2])


def test_discarding_what_matches_nobody_raises_fmr_and_the_curve_says_so():
    x, labels, _ = crowd(40)
    scores = score_all_pairs(x, labels, 10**6).scores
    matched = np.bincount(scores.impostor_pairs[scores.impostor >= 0.6].ravel(), minlength=len(x)).astype(float)
    found = curve(scores, matched, 0.6, 100)
    assert found["fmr"][0] == pytest.approx((scores.impostor >= 0.6).mean())
    assert found["fmr_low"][50] > found["fmr"][0]


def test_interval_without_errors_is_that_of_the_people_who_are_left():
    # 50 people with two pictures; the pictures of the last 25 are poor, and no genuine pair is rejected.
    labels = np.repeat(np.arange(50), 2)
    left = np.arange(0, 100, 2)
    pairs = np.concatenate([np.stack([left, left + 1], axis=1), [[0, 2]]])
    scores = scores_of_pairs(np.append(np.ones(50), 0.0), np.append(np.ones(50, bool), False), *pairs.T, labels)
    found = curve(scores, np.where(labels < 25, 1.0, 0.0), 0.5, 50)
    assert found["discarded"][50] == 0.5
    assert found["high"][0] == pytest.approx(1 - 0.025 ** (1 / 50))
    assert found["high"][50] == pytest.approx(1 - 0.025 ** (1 / 25))
