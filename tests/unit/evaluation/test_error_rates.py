"""Equal error rate and area against scikit-learn and scipy, and against curves drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score, roc_curve

from vplface.evaluation.error_rates import area_under_curve, crossing, equal_error_rate
from vplface.evaluation.tar_at_far import roc

some_scores = st.lists(st.integers(-9, 9), min_size=1, max_size=40).map(lambda values: np.array(values) / 10)


@given(genuine=some_scores, impostor=some_scores)
def test_area_under_curve_and_equal_error_rate_agree_with_scikit_learn_curves(genuine, impostor):
    far, tar, thresholds = roc(genuine, impostor)
    same = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    scores = np.r_[genuine, impostor]
    assert area_under_curve(far, tar) == pytest.approx(roc_auc_score(same, scores))
    fpr, tpr, their_thresholds = roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(far, fpr)
    np.testing.assert_allclose(tar, tpr)
    np.testing.assert_array_equal(thresholds, their_thresholds)
    found = equal_error_rate(far, tar, thresholds)
    # Along the polyline by its length, for FMR alone does not say where one is on an upright stretch.
    at = np.arange(len(fpr))
    place = brentq(lambda t: np.interp(t, at, fpr) - (1 - np.interp(t, at, tpr)), 0, at[-1])
    assert found.rate == pytest.approx(np.interp(place, at, fpr), abs=1e-9)


@given(genuine=some_scores, impostor=some_scores)
def test_area_under_curve_is_the_probability_of_a_higher_genuine_score(genuine, impostor):
    far, tar, _ = roc(genuine, impostor)
    statistic = mannwhitneyu(genuine, impostor).statistic
    assert area_under_curve(far, tar) == pytest.approx(statistic / len(genuine) / len(impostor))


def test_equal_error_rate_threshold_balances_both_errors():
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(0.5, 0.2, 2000), rng.normal(0.1, 0.2, 5000)
    found = equal_error_rate(*roc(genuine, impostor))
    assert found.rate == pytest.approx(0.1587, abs=0.01)  # the normal distribution, one deviation from each
    assert np.mean(genuine < found.threshold) == pytest.approx(found.rate, abs=1e-3)
    assert np.mean(impostor >= found.threshold) == pytest.approx(found.rate, abs=1e-3)


def test_equal_error_rate_matches_values_computed_by_hand():
    # Thresholds .9 .6 .5 .2: FMR 0 .5 .5 1, FNMR .5 .5 0 0.
    found = equal_error_rate(*roc(np.array([0.9, 0.5]), np.array([0.6, 0.2])))
    assert found.rate == 0.5
    assert found.threshold == pytest.approx(0.55)
    parted = equal_error_rate(*roc(np.array([0.9, 0.8]), np.array([0.1])))
    assert (parted.rate, parted.threshold) == (0.0, pytest.approx(0.45))
    reversed_ = equal_error_rate(*roc(np.array([0.1]), np.array([0.8, 0.9])))
    assert reversed_.rate == 1.0
    tied = equal_error_rate(*roc(np.array([0.3]), np.array([0.3])))
    assert tied.rate == 0.5
    assert crossing(0.0, 0.2, 0.1, 0.0) == pytest.approx(0.2 / 3)


def test_area_under_curve_and_equal_error_rate_refuse_incomplete_curves():
    with pytest.raises(ValueError, match=r"begins at \(0, 0\)"):
        area_under_curve(np.array([0.1, 1.0]), np.array([0.2, 1.0]))
    with pytest.raises(ValueError, match="not at"):
        area_under_curve(np.array([0.0, 0.5]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="before FMR and FNMR meet"):
        equal_error_rate(np.array([0.0, 0.1]), np.array([0.0, 0.2]), np.array([np.inf, 0.5]))
