"""Replicates of accuracy against pairs literally repeated, and percentile intervals."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.populations import drawn, listed, people, repeated
from vplface.evaluation.bootstrap import accuracy_replicates, interval, share_replicates


def test_accuracy_replicates_keep_the_shares_of_genuine_and_impostor_pairs():
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


def test_accuracy_replicates_without_errors_are_1_for_any_shares():
    rng = np.random.default_rng(3)
    pairs, same, share = rng.integers(30, size=(200, 2)), rng.random(200) < 0.3, rng.dirichlet(np.ones(200))
    found = accuracy_replicates(np.ones(200, bool), same, share, pairs, 100, seed=0)
    assert set(found) == {1.0}
    assert interval(found, 30) == (pytest.approx(0.025 ** (1 / 30)), 1.0)


def test_share_replicates_matches_values_computed_by_hand():
    correct, person = np.array([True, False, True]), np.array([0, 0, 1])
    drawn = np.array([[2, 0], [1, 1], [0, 2], [0, 0]])
    assert share_replicates(correct, person, drawn)[:3].tolist() == [0.5, 2 / 3, 1.0]
    assert np.isnan(share_replicates(correct, person, drawn)[3])


def test_interval_gives_percentiles_and_widens_where_all_replicates_are_0_or_1():
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
