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
    """Labelled set, embeddings, true labels: thirty distant people, six pictures each; `wrong` labels are false."""
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
def test_suspect_labels_finds_exactly_the_planted_wrong_labels(monkeypatch, rows):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 40 * rows)
    names, embeddings, whose = clusters(0, wrong=8)
    found = suspect_labels(names, np.arange(180), embeddings)
    wrong = np.flatnonzero(names.labels != whose).tolist()
    assert sorted(finding.index for finding in found) == wrong
    for finding in found:
        assert whose[finding.other] == whose[finding.index]
        assert finding.reason.startswith(f"more like p{names.labels[finding.other]} (0.")


def test_suspect_labels_finds_nothing_where_labels_are_right():
    names, embeddings, _ = clusters(1)
    assert suspect_labels(names, np.arange(180), embeddings) == []


def test_suspect_labels_matches_similarities_computed_by_hand():
    """p0 has e1, e1 and (e1 + 2 e2)/√5, p1 has e2 twice; cosine of the third to the rest of p0 is .447, to p1 .894."""
    third = np.array([1, 2]) / np.sqrt(5)
    embeddings = np.array([[1, 0], [1, 0], third, [0, 1], [0, 1]], np.float32)
    names = Names(np.array([9, 9, 0, 0, 0, 1, 1]))
    indices = np.arange(2, 7)
    (finding,) = suspect_labels(names, indices, embeddings, margin=0.44)
    assert (finding.index, finding.other) == (4, 5)
    assert finding.reason == "more like p1 (0.89) than like its own others (0.45)"
    assert suspect_labels(names, indices, embeddings, margin=0.45) == []


def test_suspect_labels_compares_with_but_does_not_judge_people_of_one_picture():
    embeddings = np.array([[1, 0], [0, 1], [0.1, 0.995]], np.float32)
    found = suspect_labels(Names(np.array([0, 0, 1])), np.arange(3), embeddings)
    assert [(finding.index, finding.other) for finding in found] == [(1, 2)]


def test_suspect_labels_never_suggests_a_person_without_pictures():
    embeddings = np.array([[1, 0], [-1, 0]], np.float32)  # 0, the mean of no pictures, is nearer than the opposite
    assert suspect_labels(Names(np.array([0, 0])), np.arange(2), embeddings, margin=0.1) == []
