"""Groups of ages, and errors by the years between two pictures, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.evaluation.ages import age_group, errors_by_age_gap
from vplface.evaluation.scores import scores_of_pairs


@pytest.mark.parametrize(
    ("age", "name"),
    [(0, "0–12"), (12.9, "0–12"), (13, "13–17"), (17, "13–17"), (18, "18–34"), (64, "50–64"), (65, "65 and more")],
)
def test_age_group_names_the_years(age, name):
    assert age_group(age) == f"age {name}"


def of_three_people(*ages):
    """The genuine pairs of three people with two pictures each, with similarities 0.9, 0.3 and 0.8."""
    pairs = np.array([[0, 1], [2, 3], [4, 5], [0, 2]])
    same = np.array([True, True, True, False])
    scores = scores_of_pairs(np.array([0.9, 0.3, 0.8, 0.1]), same, *pairs.T, np.repeat(np.arange(3), 2))
    return scores, np.array(ages, np.float64)


def test_errors_by_age_gap_divides_genuine_pairs_by_the_years_between_their_pictures():
    scores, age = of_three_people(20, 24, 20, 45, 30, 26)
    assert errors_by_age_gap(scores, age, {"x": 0.5}, 0, 0) == {
        "x": {
            "0–4 years": {"genuine": 2, "identities": 2, "fnmr": {"value": 0.0, "ci95": None}},
            "20 and more years": {"genuine": 1, "identities": 1, "fnmr": {"value": 1.0, "ci95": None}},
        }
    }


def test_errors_by_age_gap_weighs_a_draw_by_its_people():
    scores, age = of_three_people(20, 24, 20, 45, 30, 26)
    found = errors_by_age_gap(scores, age, {"x": 0.85}, 400, 0)["x"]["0–4 years"]["fnmr"]
    # Of the people 0 and 2, one is rejected: a draw has 0, 1/3, 1/2, 2/3 or 1.
    assert found == {"value": 0.5, "ci95": [0.0, 1.0]}


def test_errors_by_age_gap_leaves_out_unknown_ages_and_needs_two_classes():
    scores, age = of_three_people(20, np.nan, 20, 45, 30, 26)
    assert errors_by_age_gap(scores, age, {"x": 0.5}, 0, 0)["x"]["0–4 years"]["genuine"] == 1
    scores, age = of_three_people(20, 21, 20, 22, 30, 26)
    assert errors_by_age_gap(scores, age, {"x": 0.5}, 0, 0) == {}
