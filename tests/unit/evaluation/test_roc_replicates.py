"""Replicates of a ROC against pairs literally repeated, and intervals against simulated populations."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.populations import drawn, listed, people, repeated
from vplface.evaluation import roc_replicates
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.bootstrap import accuracy_replicates, all_draws, interval
from vplface.evaluation.error_rates import area_under_curve, equal_error_rate
from vplface.evaluation.roc_replicates import RocReplicate, WeightedScores, rate_replicates, tail_length, tar_replicates
from vplface.evaluation.scores import scores_of_pairs
from vplface.evaluation.tar_at_far import roc, tar_at_far
from vplface.evaluation.verification import accuracy_at


def tar_in_draws(scores, far, rule, replicates, seed):
    return rate_replicates(scores, [far], rule, replicates, seed).tar[0]


@pytest.mark.parametrize("rule", ["strict", "nearest"])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("far", [0.02, 0.1, 0.5])
def test_rate_replicates_tar_equals_tar_at_far_of_literally_repeated_pairs(rule, decimals, far):
    rng = np.random.default_rng(1)
    scores, *_ = listed(rng, *people(rng, 20, 4), 600, decimals)
    found = tar_in_draws(scores, far, rule, 40, seed=5)
    for number in range(40):
        counts = drawn(5, number, scores.identities)
        genuine = repeated(scores.genuine, scores.identity[scores.genuine_pairs], counts)
        impostor = repeated(scores.impostor, scores.identity[scores.impostor_pairs], counts)
        assert found[number] == pytest.approx(tar_at_far(genuine, impostor, far, rule).tar)


@pytest.mark.parametrize("decimals", [None, 1])
def test_rate_replicates_eer_and_auc_equal_those_of_literally_repeated_pairs(decimals):
    rng = np.random.default_rng(1)
    scores, *_ = listed(rng, *people(rng, 20, 4), 600, decimals)
    statistics = {"eer": RocReplicate.eer, "auc": RocReplicate.auc}
    found = rate_replicates(scores, [0.1, 0.02], "strict", 40, 5, statistics)
    for number in range(40):
        counts = drawn(5, number, scores.identities)
        curve = roc(
            repeated(scores.genuine, scores.identity[scores.genuine_pairs], counts),
            repeated(scores.impostor, scores.identity[scores.impostor_pairs], counts),
        )
        assert found.statistics["eer"][number] == pytest.approx(equal_error_rate(*curve).rate)
        assert found.statistics["auc"][number] == pytest.approx(area_under_curve(*curve[:2]))
    for k, far in enumerate([0.1, 0.02]):
        assert found.tar[k].tolist() == tar_in_draws(scores, far, "strict", 40, seed=5).tolist()


@pytest.mark.parametrize("rule", ["strict", "nearest"])
def test_rate_replicates_of_the_highest_scores_equal_those_of_all_scores(rule):
    x, labels = people(np.random.default_rng(2), 60, 5)
    complete, kept = (score_all_pairs(x, labels, keep).scores for keep in (10**6, 10_000))
    assert complete.complete
    assert not kept.complete
    np.testing.assert_allclose(
        tar_in_draws(kept, 0.02, rule, 50, seed=0), tar_in_draws(complete, 0.02, rule, 50, seed=0)
    )


@pytest.mark.parametrize("rule", ["strict", "nearest"])
def test_tar_replicates_of_the_highest_scores_equal_those_of_all_scores(rule):
    x, labels = people(np.random.default_rng(2), 30, 4)
    scores = score_all_pairs(x, labels, 10**6).scores
    genuine = WeightedScores(scores.genuine, scores.genuine_pairs, scores.identity)
    impostor = WeightedScores(scores.impostor, scores.impostor_pairs, scores.identity)
    highest = WeightedScores(impostor.score[:2000], impostor.pairs[:2000], impostor.person)
    counts = all_draws(30, 20, seed=4)
    weight = np.array([impostor.weights(each).sum() for each in counts], np.float64)
    expected = [tar_in_draws(scores, far, rule, 20, 4).tolist() for far in (0.1, 0.02)]
    assert tar_replicates(genuine, impostor, None, [0.1, 0.02], rule, counts).tolist() == expected
    assert tar_replicates(genuine, highest, weight, [0.1, 0.02], rule, counts).tolist() == expected


def test_rate_replicates_of_a_thinned_tail_are_nearly_the_same(monkeypatch):
    scores = score_all_pairs(*people(np.random.default_rng(2), 100, 6), 10**6).scores
    exact = tar_in_draws(scores, 0.05, "strict", 50, seed=0)
    monkeypatch.setattr(roc_replicates, "_FINE", 2_000)
    thinned = tar_in_draws(scores, 0.05, "strict", 50, seed=0)
    assert (exact != thinned).any()
    np.testing.assert_allclose(exact, thinned, atol=0.03)
    assert abs((exact - thinned).mean()) < 0.003


def test_rate_replicates_do_not_depend_on_their_number():
    rng = np.random.default_rng(4)
    scores, *_ = listed(rng, *people(rng, 20, 4), 400)
    few, many = (tar_in_draws(scores, 0.1, "strict", number, seed=3) for number in (5, 20))
    assert few.tolist() == many[:5].tolist()
    assert many.tolist() != tar_in_draws(scores, 0.1, "strict", 20, seed=4).tolist()


def test_rate_replicates_without_pairs_of_a_kind_are_nan():
    # Only person 0 has two pictures: a draw without that person has no genuine pair.
    labels = np.array([0, 0, 1, 2])
    scores = scores_of_pairs(np.array([0.9, 0.1]), np.array([True, False]), np.array([0, 2]), np.array([1, 3]), labels)
    found = tar_in_draws(scores, 1.0, "strict", 200, seed=0)
    has = np.array([(counts := drawn(0, number, 3))[0] * counts[1] * counts[2] > 0 for number in range(200)])
    assert 0 < has.sum() < 200
    assert np.isfinite(found).tolist() == has.tolist()
    kept = accuracy_replicates(
        np.array([True, True]), np.array([True, False]), np.array([0.5, 0.5]), np.array([[0, 0], [1, 2]]), 200, seed=0
    )
    assert np.isfinite(kept).tolist() == has.tolist()
    assert interval(found, 3) is None  # most draws are NaN


def test_tail_length_grows_with_far_up_to_the_number_of_impostors():
    assert tail_length(1e-2, 5_000) == 5_000
    assert tail_length(1e-4, 1_000_000) == 20_000
    assert tail_length(1e-2, 10_000_000) == 400_000
    assert tail_length(1e-1, 100_000_000) == 12_500_000
    assert tail_length(1.0, 10_000_000) == 10_000_000


@pytest.mark.slow
def test_interval_covers_the_true_value_at_about_its_nominal_rate():
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
        low, high = interval(tar_in_draws(scores, far, "strict", 150, trial), 30)
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
    assert covered["pairs"] < 0.85 * trials  # too narrow, because pairs are dependent
