"""Operating points against hand-computed ones and against scikit-learn's curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from vplface.errors import DataError
from vplface.evaluation.tar_at_far import TooFewImpostorsError, drawable, roc, tar_at_far

GRID = st.integers(0, 12).map(lambda k: k / 16)
SIDE = st.lists(GRID, min_size=1, max_size=40).map(np.array)
FAR = st.sampled_from([0.03, 0.05, 0.1, 0.25, 0.29, 0.5, 1.0])


def sklearn_curve(genuine, impostor):
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    return roc_curve(truth, np.r_[genuine, impostor], drop_intermediate=False)


def test_tar_at_far_matches_values_computed_by_hand():
    genuine, impostor = np.array([0.9, 0.7, 0.5, 0.3]), np.array([0.8, 0.6, 0.4, 0.2, 0.1])
    point = tar_at_far(genuine, impostor, 0.2)  # one impostor may pass: all above .6
    assert (point.tar, point.actual_far, point.genuine, point.impostors) == (0.5, 0.2, 4, 5)
    assert point.threshold == pytest.approx(0.65)
    assert tar_at_far(genuine, impostor, 0.39).tar == 0.5
    assert tar_at_far(genuine, impostor, 0.4).tar == 0.75
    everything = tar_at_far(genuine, impostor, 1.0)
    assert (everything.tar, everything.actual_far, everything.threshold) == (1.0, 1.0, 0.1)


def test_tar_at_far_rejects_tied_impostors_together():
    genuine, impostor = np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.8, 0.1, 0.1])
    point = tar_at_far(genuine, impostor, 0.25)  # one of the two at .8 alone cannot pass, nor the genuine pair there
    assert (point.tar, point.actual_far) == (1 / 3, 0.0)
    assert tar_at_far(genuine, impostor, 0.5).tar == 1.0


def test_tar_at_far_nearest_may_exceed_the_target():
    genuine, impostor = np.array([0.9, 0.7, 0.5]), np.array([0.8, 0.6, 0.4, 0.2, 0.1])
    assert tar_at_far(genuine, impostor, 0.32).actual_far == 0.2
    assert tar_at_far(genuine, impostor, 0.32, "nearest").actual_far == 0.4
    assert tar_at_far(genuine, impostor, 0.28, "nearest").actual_far == 0.2
    assert tar_at_far(genuine, impostor[:4], 0.375, "nearest").actual_far == 0.5  # halfway: the higher


def test_tar_at_far_is_0_without_genuine_scores_above_the_impostors():
    point = tar_at_far(np.array([0.1, 0.2]), np.array([0.9, 0.9]), 0.5)
    assert (point.tar, point.actual_far) == (0.0, 0.0)
    assert point.threshold > 0.9


@given(SIDE, SIDE, FAR)
def test_tar_at_far_strict_is_the_best_curve_point_within_the_target(genuine, impostor, far):
    assume(len(impostor) * far >= 1)
    fpr, tpr, _ = sklearn_curve(genuine, impostor)
    point = tar_at_far(genuine, impostor, far)
    assert point.tar == tpr[fpr <= far].max()
    assert point.actual_far == fpr[fpr <= far].max()
    assert np.mean(genuine >= point.threshold) == point.tar
    assert np.mean(impostor >= point.threshold) == point.actual_far


@given(SIDE, SIDE, FAR)
def test_tar_at_far_nearest_is_the_curve_point_nearest_to_the_target(genuine, impostor, far):
    assume(len(impostor) * far >= 1)
    fpr, tpr, _ = sklearn_curve(genuine, impostor)
    point = tar_at_far(genuine, impostor, far, "nearest")
    assert abs(point.actual_far - far) == pytest.approx(np.abs(fpr - far).min(), abs=1e-15)
    assert point.tar == tpr[fpr == point.actual_far].max()
    assert np.mean(impostor >= point.threshold) == point.actual_far


@given(SIDE, SIDE, FAR, st.sampled_from(["strict", "nearest"]))
def test_tar_at_far_needs_only_the_highest_impostors(genuine, impostor, far, rule):
    assume(len(impostor) * far >= 1)
    complete = tar_at_far(genuine, impostor, far, rule)
    # One group of equal scores below the threshold must be there, and something below that.
    below = np.unique(impostor[impostor < complete.threshold])[-2:]
    assume(len(below) == 2)
    highest = np.sort(impostor)[::-1][: int((impostor > below[0]).sum()) + 1]
    assert tar_at_far(genuine, highest, far, rule, len(impostor)) == complete


def test_tar_at_far_refuses_too_few_of_the_highest_impostors():
    with pytest.raises(ValueError, match="do not reach"):
        tar_at_far(np.array([0.5]), np.array([0.9, 0.8]), 0.2, "strict", 10)


@pytest.mark.parametrize(("impostors", "far"), [(999, 1e-3), (0, 0.5), (3, 0.3), (9_999, 1e-4)])
def test_tar_at_far_refuses_fewer_impostors_than_the_rate_needs(impostors, far):
    with pytest.raises(TooFewImpostorsError, match=f"needs at least {int(np.ceil(1 / far)):,} impostor pairs"):
        tar_at_far(np.array([0.5]), np.linspace(0, 0.4, impostors), far)
    assert issubclass(TooFewImpostorsError, DataError)


@pytest.mark.parametrize("far", [1e-1, 1e-2, 1e-3, 1e-4])
def test_tar_at_far_accepts_exactly_enough_impostors(far):
    impostor = np.linspace(0, 1, round(1 / far))
    point = tar_at_far(np.array([0.0, 2.0]), impostor, far)
    assert (point.tar, point.actual_far) == (0.5, far)


@pytest.mark.parametrize("far", [k / 100 for k in range(1, 101)])
def test_tar_at_far_reaches_whole_percentages_exactly(far):
    assert tar_at_far(np.array([2.0]), np.arange(100.0), far).actual_far == far


@pytest.mark.parametrize(
    ("genuine", "impostor", "far", "rule", "message"),
    [
        ([], [0.1], 1.0, "strict", "no genuine"),
        ([0.1], [np.nan], 1.0, "strict", "not finite"),
        ([np.inf], [0.1], 1.0, "strict", "not finite"),
        ([0.1], [0.1], 0.0, "strict", "lies in"),
        ([0.1], [0.1], 1.5, "strict", "lies in"),
        ([0.1], [0.1], 1.0, "loose", "strict, nearest"),
    ],
)
def test_tar_at_far_refuses_invalid_input(genuine, impostor, far, rule, message):
    with pytest.raises(ValueError, match=message):
        tar_at_far(np.array(genuine, float), np.array(impostor), far, rule)


@given(SIDE, SIDE)
def test_roc_equals_the_curve_of_scikit_learn(genuine, impostor):
    for ours, theirs in zip(roc(genuine, impostor), sklearn_curve(genuine, impostor), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_roc_of_the_highest_impostors_is_the_start_of_the_whole_curve():
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(1, 1, 50), np.sort(rng.normal(0, 1, 500))[::-1]
    whole, start = roc(genuine, impostor), roc(genuine, impostor[:40], 500)
    for full, part in zip(whole, start, strict=True):
        assert part.tolist() == full[: len(part)].tolist()
    assert start[0][-1] == 39 / 500


def test_drawable_keeps_points_of_the_curve_and_the_operating_points():
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(2, 1, 5000), rng.normal(0, 1, 100_000)
    far, tar, _ = roc(genuine, impostor)
    drawn_far, drawn_tar = drawable(far, tar)
    assert 200 < len(drawn_far) <= 301
    assert set(zip(drawn_far, drawn_tar, strict=True)) <= set(zip(far, tar, strict=True))
    assert (drawn_far[0], drawn_tar[0]) == (0.0, np.mean(genuine > impostor.max()))
    assert (drawn_far[-1], drawn_tar[-1]) == (1.0, 1.0)
    assert (np.diff(drawn_far) > 0).all()
    for level in (1e-4, 1e-3, 1e-2, 1e-1):
        there = drawn_tar[drawn_far <= level * 1.03].max()
        assert there == pytest.approx(tar_at_far(genuine, impostor, level).tar, abs=0.01)
