"""Recognisability and norms of means by hand, and the norm against the mean over pairs."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.evaluation.recognisability import mean_direction, norm_of_mean, recognisability

ONCE = np.ones((1, 2), np.int64)


def test_mean_direction_has_unit_norm():
    np.testing.assert_allclose(mean_direction(np.array([[0.6, 0.8], [0.6, -0.8]])), [1.0, 0.0])
    np.testing.assert_array_equal(mean_direction(np.array([[1.0, 0.0], [-1.0, 0.0]])), [0.0, 0.0])


def test_recognisability_is_one_minus_the_cosine_and_at_most_one():
    np.testing.assert_allclose(recognisability(np.array([1.0, 0.6, 0.0, -0.5])), [0.0, 0.4, 1.0, 1.0])


def test_norm_of_mean_is_the_root_of_the_mean_cosine_of_two_people():
    x, person = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([0, 1])
    assert norm_of_mean(x, person, ONCE)[0] == pytest.approx(np.sqrt(0.6))
    twice = np.concatenate([x, x[:1]])  # a second picture of one person, like the first, changes nothing
    assert norm_of_mean(twice, np.array([0, 1, 0]), ONCE)[0] == pytest.approx(np.sqrt(0.6))
    assert norm_of_mean(np.array([[0.6, 0.8], [0.6, -0.8]]), person, ONCE)[0] == 0.0  # cosine −.28
    assert np.isnan(norm_of_mean(x, np.array([0, 0]), ONCE)[0])


def test_norm_of_mean_does_not_grow_where_there_are_few_pictures():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 512))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert np.linalg.norm(x.mean(axis=0)) > 0.2  # 1/√20
    assert norm_of_mean(x, np.arange(20), np.ones((1, 20), np.int64))[0] < 0.06


def test_norm_of_mean_agrees_with_a_loop_over_weighted_pairs():
    rng = np.random.default_rng(1)
    person = rng.integers(0, 6, 25)
    x = rng.normal(size=(25, 5)) + 0.8
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    drawn = rng.multinomial(6, [1 / 6] * 6, size=4)
    for counts, found in zip(drawn, norm_of_mean(x, person, drawn), strict=True):
        total = weight = 0.0
        for i in range(25):
            for j in range(i):
                if person[i] != person[j]:
                    w = counts[person[i]] * counts[person[j]]
                    total, weight = total + w * (x[i] @ x[j]), weight + w
        assert found == pytest.approx(np.sqrt(total / weight))
