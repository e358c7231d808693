"""Accuracy against hand-computed examples, brute force, and the field's grid rule written down independently."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from vplface.evaluation.verification import accuracy_at, best_threshold, between, choose_threshold, kfold_accuracy

SCORED = st.lists(st.tuples(st.integers(-10, 10).map(lambda k: k / 10), st.booleans()), min_size=1, max_size=30)


def arrays(scored):
    return np.array([score for score, _ in scored], float), np.array([same for _, same in scored], bool)


def test_best_threshold_of_separable_scores_is_the_middle_of_the_gap():
    assert best_threshold(np.array([0.1, 0.8, 0.2, 0.6]), np.array([False, True, False, True])) == pytest.approx(0.4)


def test_best_threshold_takes_the_widest_of_equally_accurate_gaps():
    # Rejecting up to .1, or up to .5: three right of four either way; the gap .5-.9 is the wider one.
    similarity, same = np.array([0.1, 0.3, 0.5, 0.9]), np.array([False, True, False, True])
    assert best_threshold(similarity, same) == pytest.approx(0.7)
    assert accuracy_at(0.2, similarity, same) == accuracy_at(0.7, similarity, same) == 0.75


def test_best_threshold_takes_the_lowest_of_equally_wide_gaps():
    similarity, same = np.array([0.0, 0.25, 0.5, 0.75]), np.array([False, True, False, True])
    assert best_threshold(similarity, same) == 0.125


def test_best_threshold_does_not_split_tied_scores():
    similarity, same = np.array([0.5, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert best_threshold(similarity, same) == pytest.approx(0.3)
    assert accuracy_at(0.3, similarity, same) == 0.75
    assert best_threshold(similarity[:3], same[:3]) == 0.5  # nothing to part: accept everything
    assert accuracy_at(best_threshold(similarity[1:3], ~same[:2]), similarity[1:3], ~same[:2]) == 1.0  # reject it


def test_accuracy_at_accepts_a_score_equal_to_the_threshold():
    assert accuracy_at(0.5, np.array([0.5, 0.5]), np.array([True, False])) == 0.5


@given(SCORED)
def test_best_threshold_reaches_the_highest_accuracy(scored):
    similarity, same = arrays(scored)
    candidates = np.concatenate([np.unique(similarity), [2.0]])
    best = max(np.mean((similarity >= t) == same) for t in candidates)
    assert accuracy_at(best_threshold(similarity, same), similarity, same) == best


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_between_separates_even_adjacent_floats(a, b):
    for low, high in ((a, b), (a, np.nextafter(a, 2.0))):
        if low < high:
            assert low < between(float(low), float(high)) <= high


def test_kfold_accuracy_matches_values_computed_by_hand():
    # Fold 7 alone would put the threshold between .4 and .6, fold 3 between .2 and .4.
    similarity = np.array([0.2, 0.4, 0.4, 0.6])
    same = np.array([False, True, False, True])
    result = kfold_accuracy(similarity, same, np.array([3, 3, 7, 7]))
    assert result.thresholds == pytest.approx([0.5, 0.3])
    assert result.per_fold.tolist() == [0.5, 0.5]
    assert (result.mean, result.std) == (0.5, 0.0)
    result = kfold_accuracy(np.array([0.2, 0.4, 0.32, 0.42]), same, np.array([3, 3, 7, 7]))
    assert result.thresholds == pytest.approx([0.37, 0.3])
    assert (result.per_fold.tolist(), result.mean, result.std) == ([1.0, 0.5], 0.75, 0.25)


def noisy_embeddings(rng, pairs, dim=6):
    left = rng.normal(size=(pairs, dim))
    same = rng.random(pairs) < 0.5
    right = np.where(same[:, None], left + rng.normal(size=left.shape), rng.normal(size=left.shape))
    return (*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right)), same)


def test_kfold_accuracy_exact_agrees_with_a_plain_loop():
    left, right, same = noisy_embeddings(np.random.default_rng(0), 300)
    similarity, fold = (left * right).sum(axis=1), np.arange(300) // 60
    result = kfold_accuracy(similarity, same, fold)
    for number, (train, test) in enumerate(KFold(5).split(same)):
        values = np.sort(similarity[train])
        middles = (values[1:] + values[:-1]) / 2
        rates = np.array([np.mean((similarity[train] >= t) == same[train]) for t in middles])
        best = np.flatnonzero(rates == rates.max())
        threshold = middles[best[np.argmax(np.diff(values)[best])]]
        assert result.thresholds[number] == pytest.approx(threshold)
        assert result.per_fold[number] == np.mean((similarity[test] >= threshold) == same[test])


@pytest.mark.parametrize("seed", range(5))
def test_kfold_accuracy_insightface_agrees_with_the_grid_over_distances(seed):
    left, right, same = noisy_embeddings(np.random.default_rng(seed), 400)
    distance = ((left - right) ** 2).sum(axis=1)
    expected = []
    for train, test in KFold(10, shuffle=False).split(distance):
        rates = [np.mean((distance[train] < t) == same[train]) for t in np.arange(0, 4, 0.01)]
        expected.append(np.mean((distance[test] < np.arange(0, 4, 0.01)[np.argmax(rates)]) == same[test]))
    result = kfold_accuracy((left * right).sum(axis=1), same, np.arange(400) // 40, "insightface")
    assert result.per_fold.tolist() == expected
    assert result.std == pytest.approx(np.std(expected))


def test_choose_threshold_insightface_accepts_below_the_smallest_best_grid_distance():
    # Distances .5 and 1.5: every grid point from .51 to 1.50 is right, so .51, a similarity of .745.
    similarity, same = np.array([0.75, 0.25]), np.array([True, False])
    assert choose_threshold(similarity, same, "insightface") == pytest.approx(0.745)
    # A distance of exactly 1 is not below the grid's 1.00, so 1.01 is the first that accepts it.
    assert choose_threshold(np.array([0.5]), np.array([True]), "insightface") == pytest.approx(0.495)


@pytest.mark.parametrize(
    ("similarity", "same", "fold", "message"),
    [
        ([0.1, np.nan], [True, False], [0, 1], "not finite"),
        ([0.1, 0.2], [True, False], [0, 0], "two folds"),
        ([0.1], [True, False], [0, 1], "as many"),
        ([0.1, 0.2], [True, False], [0], "1 folds given for 2"),
        ([], [], [], "at least one"),
        ([0.1, 0.2], [1, 0], [0, 1], "boolean"),
    ],
)
def test_kfold_accuracy_refuses_invalid_input(similarity, same, fold, message):
    with pytest.raises(ValueError, match=message):
        kfold_accuracy(np.array(similarity), np.array(same, bool if same == [] else None), np.array(fold))


def test_choose_threshold_refuses_an_unknown_protocol():
    with pytest.raises(ValueError, match="exact, insightface"):
        choose_threshold(np.array([0.1]), np.array([True]), "best")
