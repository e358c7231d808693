from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from vplface.evaluation import labels as module
from vplface.evaluation.labels import suspect_labels


@dataclass
class Names:
    """As much of a set as names and labels."""

    labels: np.ndarray
    identities: list[str] = field(default_factory=lambda: [f"p{k}" for k in range(40)])


def clusters(seed: int, wrong: int = 0) -> tuple[Names, np.ndarray, np.ndarray]:
    """Names, embeddings, whose: thirty people with six pictures, well apart; of some the label is another's."""
    rng = np.random.default_rng(seed)
    whose = rng.permutation(np.repeat(np.arange(30), 6))
    centres = rng.normal(size=(30, 64))
    x = centres[whose] + 0.5 * rng.normal(size=(180, 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    given = whose.copy()
    for index in rng.choice(180, wrong, replace=False):
        given[index] = (whose[index] + rng.integers(1, 30)) % 30
    return Names(given), x.astype(np.float32), whose


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_planted_wrong_labels_are_found_and_no_others(monkeypatch, rows):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 40 * rows)
    names, embeddings, whose = clusters(0, wrong=8)
    found = suspect_labels(names, np.arange(180), embeddings)
    wrong = np.flatnonzero(names.labels != whose).tolist()
    assert sorted(finding.index for finding in found) == wrong
    for finding in found:
        assert whose[finding.other] == whose[finding.index]
        assert finding.reason.startswith(f"more like p{names.labels[finding.other]} (0.")


def test_nothing_is_found_where_labels_are_right():
    names, embeddings, _ = clusters(1)
    assert suspect_labels(names, np.arange(180), embeddings) == []


def test_figures_by_hand():
    """p0 has e1, e1 and (e1 + 2 e2)/√5; p1 has e2 and e2. The third's own others are e1: .447; p1: .894."""
    third = np.array([1, 2]) / np.sqrt(5)
    embeddings = np.array([[1, 0], [1, 0], third, [0, 1], [0, 1]], np.float32)
    names = Names(np.array([9, 9, 0, 0, 0, 1, 1]))
    indices = np.arange(2, 7)
    (finding,) = suspect_labels(names, indices, embeddings, margin=0.44)
    assert (finding.index, finding.other) == (4, 5)
    assert finding.reason == "more like p1 (0.89) than like its own others (0.45)"
    assert suspect_labels(names, indices, embeddings, margin=0.45) == []


def test_who_has_one_picture_is_not_judged_but_compared_with():
    embeddings = np.array([[1, 0], [0, 1], [0.1, 0.995]], np.float32)
    found = suspect_labels(Names(np.array([0, 0, 1])), np.arange(3), embeddings)
    assert [(finding.index, finding.other) for finding in found] == [(1, 2)]


def test_who_has_no_picture_left_is_like_nobody():
    embeddings = np.array([[1, 0], [-1, 0]], np.float32)  # 0, the mean of no pictures, is nearer than the opposite
    assert suspect_labels(Names(np.array([0, 0])), np.arange(2), embeddings, margin=0.1) == []
