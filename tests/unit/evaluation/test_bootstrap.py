"""Replicates against pairs literally repeated, and intervals against simulated populations."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.evaluation import bootstrap
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.bootstrap import accuracy_replicates, interval, rate_replicates, tail_length, tar_replicates
from vplface.evaluation.error_rates import area_under_curve, equal_error_rate
from vplface.evaluation.scores import scores_of_pairs
from vplface.evaluation.tar_at_far import roc, tar_at_far
from vplface.evaluation.verification import accuracy_at


def people(rng, identities, pictures, dim=8, noise=1.0):
    labels = np.repeat(np.arange(identities), pictures)
    x = rng.normal(size=(identities, dim))[labels] + noise * rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def listed(rng, x, labels, pairs, decimals=None):
    left, right = rng.integers(len(x), size=(2, pairs))
    left, right = left[left != right], right[left != right]
    similarity = (x[left] * x[right]).sum(axis=1)
    similarity = similarity if decimals is None else similarity.round(decimals)
    same = labels[left] == labels[right]
    return scores_of_pairs(similarity, same, left, right, labels), similarity, same, left, right


def drawn(seed, number, identities):
    return np.bincount(
        np.random.default_rng((seed, number)).integers(identities, size=identities), minlength=identities
    )


def repeated(values, people, counts):
    a, b = people.T
    return np.repeat(values, np.where(a == b, counts[a], counts[a] * counts[b]))


@pytest.mark.parametrize("rule", ["strict", "nearest"])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("far", [0.02, 0.1, 0.5])
def test_tar_of_pairs_repeated_as_often_as_they_weigh(rule, decimals, far):
    rng = np.random.default_rng(1)
    scores, *_ = listed(rng, *people(rng, 20, 4), 600, decimals)
    found = tar_replicates(scores, far, rule, 40, seed=5)
    for number in range(40):
        counts = drawn(5, number, scores.identities)
        genuine = repeated(scores.genuine, scores.identity[scores.genuine_pairs], counts)
        impostor = repeated(scores.impostor, scores.identity[scores.impostor_pairs], counts)
        assert found[number] == pytest.approx(tar_at_far(genuine, impostor, far, rule).tar)


@pytest.mark.parametrize("decimals", [None, 1])
def test_equal_error_rate_and_area_of_pairs_repeated_as_often_as_they_weigh(decimals):
    rng = np.random.default_rng(1)
    scores, *_ = listed(rng, *people(rng, 20, 4), 600, decimals)
    found = rate_replicates(scores, [0.1, 0.02], "strict", 40, seed=5)
    for number in range(40):
        counts = drawn(5, number, scores.identities)
        curve = roc(
            repeated(scores.genuine, scores.identity[scores.genuine_pairs], counts),
            repeated(scores.impostor, scores.identity[scores.impostor_pairs], counts),
        )
        assert found.eer[number] == pytest.approx(equal_error_rate(*curve).rate)
        assert found.auc[number] == pytest.approx(area_under_curve(*curve[:2]))
    for k, far in enumerate([0.1, 0.02]):
        assert found.tar[k].tolist() == tar_replicates(scores, far, "strict", 40, seed=5).tolist()


@pytest.mark.parametrize("rule", ["strict", "nearest"])
def test_the_highest_scores_of_all_pairs_suffice(rule):
    x, labels = people(np.random.default_rng(2), 60, 5)
    complete, kept = (score_all_pairs(x, labels, keep).scores for keep in (10**6, 10_000))
    assert complete.complete
    assert not kept.complete
    np.testing.assert_allclose(
        tar_replicates(kept, 0.02, rule, 50, seed=0), tar_replicates(complete, 0.02, rule, 50, seed=0)
    )


def test_a_thinned_tail_gives_nearly_the_same(monkeypatch):
    scores = score_all_pairs(*people(np.random.default_rng(2), 100, 6), 10**6).scores
    exact = tar_replicates(scores, 0.05, "strict", 50, seed=0)
    monkeypatch.setattr(bootstrap, "_FINE", 2_000)
    thinned = tar_replicates(scores, 0.05, "strict", 50, seed=0)
    assert (exact != thinned).any()
    np.testing.assert_allclose(exact, thinned, atol=0.03)
    assert abs((exact - thinned).mean()) < 0.003


def test_accuracy_keeps_the_shares_of_the_kinds():
    rng = np.random.default_rng(3)
    scores, similarity, same, left, right = listed(rng, *people(rng, 15, 5), 300)
    pairs = scores.identity[np.stack([left, right], axis=1)]
    correct = (similarity >= 0.4) == same
    share = rng.dirichlet(np.ones(len(same)))
    found = accuracy_replicates(correct, same, share, pairs, 30, seed=9)
    for number in range(30):
        counts = drawn(9, number, scores.identities)
        expected = 0.0
        for kind in (same, ~same):
            weights = repeated(share[kind], pairs[kind], counts)
            expected += share[kind].sum() * np.average(repeated(correct[kind], pairs[kind], counts), weights=weights)
        assert found[number] == pytest.approx(expected)


def test_no_errors_in_pairs_of_any_share_are_an_accuracy_of_one():
    rng = np.random.default_rng(3)
    pairs, same, share = rng.integers(30, size=(200, 2)), rng.random(200) < 0.3, rng.dirichlet(np.ones(200))
    found = accuracy_replicates(np.ones(200, bool), same, share, pairs, 100, seed=0)
    assert set(found) == {1.0}
    assert interval(found, 30) == (pytest.approx(0.025 ** (1 / 30)), 1.0)


def test_replicates_do_not_depend_on_how_many_are_asked_for():
    rng = np.random.default_rng(4)
    scores, *_ = listed(rng, *people(rng, 20, 4), 400)
    few, many = (tar_replicates(scores, 0.1, "strict", number, seed=3) for number in (5, 20))
    assert few.tolist() == many[:5].tolist()
    assert many.tolist() != tar_replicates(scores, 0.1, "strict", 20, seed=4).tolist()


def test_draws_without_pairs_of_a_kind_are_nan():
    # Only person 0 has two pictures: a draw without that person has no genuine pair.
    labels = np.array([0, 0, 1, 2])
    scores = scores_of_pairs(np.array([0.9, 0.1]), np.array([True, False]), np.array([0, 2]), np.array([1, 3]), labels)
    found = tar_replicates(scores, 1.0, "strict", 200, seed=0)
    has = np.array([(counts := drawn(0, number, 3))[0] * counts[1] * counts[2] > 0 for number in range(200)])
    assert 0 < has.sum() < 200
    assert np.isfinite(found).tolist() == has.tolist()
    kept = accuracy_replicates(
        np.array([True, True]), np.array([True, False]), np.array([0.5, 0.5]), np.array([[0, 0], [1, 2]]), 200, seed=0
    )
    assert np.isfinite(kept).tolist() == has.tolist()
    assert interval(found, 3) is None  # most draws tell nothing


def test_interval():
    assert interval(np.linspace(0, 1, 1001), 50) == pytest.approx((0.025, 0.975))
    assert interval(np.r_[np.linspace(0, 1, 1001), np.nan], 50) == pytest.approx((0.025, 0.975))
    assert interval(np.zeros(0), 50) is None
    assert interval(np.linspace(0, 1, 9), 1) is None
    assert interval(np.full(10, 0.5), 50) == (0.5, 0.5)
    # No error seen among 50 people: the rule of three says at most 3/50 for 95 % one-sided, 3.7/50 two-sided.
    low, high = interval(np.ones(10), 50)
    assert (high, low) == (1.0, pytest.approx(1 - 3.69 / 50, abs=0.003))
    assert interval(np.zeros(10), 50) == pytest.approx((0.0, 1 - low))
    assert interval(np.zeros(10), 50, bounds=None) == (0.0, 0.0)


def test_tail_length():
    assert tail_length(1e-2, 5_000) == 5_000
    assert tail_length(1e-4, 1_000_000) == 20_000
    assert tail_length(1e-2, 10_000_000) == 400_000
    assert tail_length(1e-1, 100_000_000) == 12_500_000
    assert tail_length(1.0, 10_000_000) == 10_000_000


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hardness = lambda count: rng.uniform(0.3, 1.3, count)  # noqa: E731 - people differ, which makes pairs dependent

    def population(identities, pictures):
        labels = np.repeat(np.arange(identities), pictures)
        spread = hardness(identities)[labels][:, None]
        x = rng.normal(size=(identities, 8))[labels] + spread * rng.normal(size=(len(labels), 8))
        return x / np.linalg.norm(x, axis=1, keepdims=True), labels

    far, threshold = 0.05, 0.6
    whole = score_all_pairs(*population(1000, 3), 1_000_000).scores
    true_tar = tar_at_far(whole.genuine, whole.impostor, far, "strict", whole.impostors).tar
    true_accuracy = accuracy_at(threshold, whole.genuine, np.ones(len(whole.genuine), bool))
    covered = {"tar": 0, "accuracy": 0, "pairs": 0}
    trials = 100
    for trial in range(trials):
        scores = score_all_pairs(*population(30, 3), 10**6).scores
        low, high = interval(tar_replicates(scores, far, "strict", 150, trial), 30)
        covered["tar"] += low <= true_tar <= high
        g = len(scores.genuine)
        correct = scores.genuine >= threshold
        replicates = accuracy_replicates(
            correct, np.ones(g, bool), np.full(g, 1 / g), scores.identity[scores.genuine_pairs], 150, trial
        )
        low, high = interval(replicates, 30)
        covered["accuracy"] += low <= true_accuracy <= high
        spread = 1.96 * np.sqrt(correct.mean() * (1 - correct.mean()) / g)  # as if pairs were independent
        covered["pairs"] += abs(correct.mean() - true_accuracy) <= spread
    assert 0.88 * trials <= covered["tar"] <= trials
    assert 0.88 * trials <= covered["accuracy"] <= trials
    assert covered["pairs"] < 0.85 * trials  # what the bootstrap over people is for
