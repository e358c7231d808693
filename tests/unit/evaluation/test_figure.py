"""Figures and differences as objects, and as the JSON they are stored as."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vplface.evaluation.bootstrap import interval
from vplface.evaluation.figure import Difference, Figure, Seeds, finite


def test_Figure_to_json_begins_with_value_and_interval():
    figure = Figure(0.5, (0.4, 0.6), {"threshold": 0.3}, count=7)
    assert json.dumps(figure.to_json()) == '{"value": 0.5, "ci95": [0.4, 0.6], "threshold": 0.3}'
    assert Figure.from_json(figure.to_json()) == figure


def test_Figure_behaves_as_the_mapping_of_its_json():
    figure = Figure(None, details={"reason": "too few"})
    assert dict(figure) == figure == {"value": None, "ci95": None, "reason": "too few"}
    assert (figure["reason"], figure.get("std"), len(figure)) == ("too few", None, 3)


@pytest.mark.parametrize("ends", ["0.1, 0.2", [0.1], [0.1, None], [0.1, float("inf")], {"low": 0.1}, None])
def test_Figure_from_json_reads_an_invalid_interval_as_none(ends):
    assert Figure.from_json({"value": "many", "ci95": ends}) == Figure(None)


def test_Figure_resampled_computes_the_interval_for_its_count_of_people():
    replicates = np.ones(20)
    assert Figure(1.0, count=9).resampled(replicates).interval == interval(replicates, 9)
    assert Figure(1.0, count=1).resampled(replicates).interval is None


@pytest.mark.parametrize(
    "difference",
    [
        Difference(0.1, (0.05, 0.15), distinguishable=True),
        Difference(0.1, None, distinguishable=False),
        Difference(0.1, (0.0, 0.2), distinguishable=False, mcnemar={"only_first": 1, "only_second": 2, "p": 1.0}),
        Difference(0.1, (0.05, 0.15), distinguishable=True, over_seeds=Seeds((0.1, 0.1), 2)),
        Difference(0.2, (0.1, 0.3), distinguishable=True, over_seeds=Seeds((0.1, 0.2, 0.3), 3, (0.05, 0.35))),
    ],
)
def test_Difference_from_json_inverts_to_json(difference):
    again = Difference.from_json(json.loads(json.dumps(difference.to_json())))
    assert again == difference
    assert (again.mcnemar, again.over_seeds) == (difference.mcnemar, difference.over_seeds)


def test_finite_returns_none_for_anything_but_a_finite_number():
    assert finite(3) == 3.0
    assert [finite(value) for value in (float("nan"), float("inf"), "3", True, None, [3])] == [None] * 6
