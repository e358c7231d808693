"""Templates of people against sums by hand, their evaluation against loops, and people of whom the best is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vplface.errors import DataError
from vplface.evaluation import compare
from vplface.evaluation.identification import (
    IdentificationOptions,
    LabelledEmbeddings,
    evaluate_templates,
    person_templates,
    split_people,
)
from vplface.evaluation.unit import unit

OPTIONS = IdentificationOptions(ranks=(1, 2), fpirs=(0.2,), bootstrap=40)


def test_person_templates_match_sums_by_hand():
    # Person 0: (1, 0) and (0, 1); person 1: (0, 1) alone. Norms of 2 and 5 do not count without weights.
    rows, person = np.array([[2.0, 0], [0, 1], [0, 5]]), np.array([0, 1, 0])
    root = 0.5**0.5
    np.testing.assert_allclose(person_templates(rows, person), [[root, root], [0, 1]], atol=1e-7)
    # 3 (1, 0) + 4 (0, 1) has the norm 5.
    np.testing.assert_allclose(person_templates(rows, person, np.array([3.0, 7, 4])), [[0.6, 0.8], [0, 1]], atol=1e-7)
    np.testing.assert_allclose(person_templates(rows, person, np.array([0, 1.0, 2])), [[0, 1], [0, 1]], atol=1e-7)


def test_person_templates_refuses_what_has_no_mean_or_no_weight():
    rows = np.array([[1.0, 0], [-1, 0], [0, 1]])
    with pytest.raises(DataError, match="person 0 have no mean"):
        person_templates(rows, np.array([0, 0, 1]))
    with pytest.raises(DataError, match="person 1 have no mean"):
        person_templates(rows, np.array([0, 1, 1]), np.array([1.0, 0, 0]))
    with pytest.raises(ValueError, match="finite and not negative"):
        person_templates(rows, np.array([0, 1, 1]), np.array([1.0, -1, 0]))


@given(st.integers(1, 6), st.integers(0, 20), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_person_templates_is_invariant_under_order_norms_and_common_weights(people, extra, dim, seed):
    rng = np.random.default_rng(seed)
    person = np.concatenate([np.arange(people), rng.integers(people, size=extra)])
    rows = rng.normal(size=(len(person), dim)) + 3
    weights = rng.uniform(0.1, 5, len(person))
    found = person_templates(rows, person, weights)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    order = rng.permutation(len(person))
    scales, per_person = rng.uniform(0.1, 9, (len(person), 1)), rng.uniform(0.1, 9, people)
    again = person_templates((rows * scales)[order], person[order], (weights * per_person[person])[order])
    np.testing.assert_allclose(again, found, atol=1e-5)
    by_loop = [
        sum(w * row / np.linalg.norm(row) for w, row, who in zip(weights, rows, person, strict=True) if who == each)
        for each in range(people)
    ]
    np.testing.assert_allclose(found, unit(np.array(by_loop), "sums"), atol=1e-6)


def crowd(people, pictures, dim, noise, seed, quality=None):
    """Pictures around a centre for each person; the noise of a picture is ``noise`` over its norm."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), pictures)
    centres = unit(rng.normal(size=(people, dim)), "centres")
    grade = np.ones(len(person)) if quality is None else rng.choice(quality, len(person))
    rows = unit(centres[person] + noise / grade[:, None] * rng.normal(size=(len(person), dim)) / dim**0.5, "rows")
    return LabelledEmbeddings(
        rows * grade[:, None].astype(np.float32), [f"p{each}" for each in person], [str(n) for n in range(len(person))]
    )


@settings(max_examples=15)
@given(st.integers(0, 2**16))
def test_evaluate_templates_agrees_with_a_loop_over_probes(seed):
    gallery, probes = split_people(crowd(14, 4, 6, 0.9, seed))
    crowd_rows = np.random.default_rng(seed).normal(size=(5, 6)).astype(np.float32)
    found = evaluate_templates(probes, gallery, crowd_rows, ["best", "mean", "weighted"], OPTIONS)
    names = sorted(set(gallery.people))
    pictures = {name: unit(gallery.embeddings[np.array(gallery.people) == name], "g") for name in names}
    weights = {
        name: np.linalg.norm(gallery.embeddings[np.array(gallery.people) == name], axis=1)[:, None] for name in names
    }
    strangers = unit(crowd_rows, "crowd")
    similarity = {
        "best": lambda p, name: (pictures[name] @ p).max(),
        "mean": lambda p, name: unit(pictures[name].sum(0)[None], "m")[0] @ p,
        "weighted": lambda p, name: unit((weights[name] * pictures[name]).sum(0)[None], "w")[0] @ p,
    }
    for kind, of in similarity.items():
        first, strongest = [], []
        for p, person in zip(unit(probes.embeddings, "p"), probes.people, strict=True):
            rivals = max([*(of(p, name) for name in names if name != person), *(strangers @ p)])
            if person in names:
                first.append((of(p, person) > rivals, of(p, person)))
            else:
                strongest.append(rivals)
        allowed = int(0.2 * len(strongest))
        threshold = sorted(strongest, reverse=True)[allowed]  # must not be reached
        metrics = found[kind].metrics
        assert metrics["rank-1"].value == pytest.approx(np.mean([right for right, _ in first]))
        expected = np.mean([right and own > threshold for right, own in first])
        assert metrics["tpir@fpir=2e-1"].value == pytest.approx(expected)
        assert found[kind].protocol["templates"] == kind
        assert "tar@far=1e-4" not in metrics


def test_evaluate_templates_finds_the_kind_that_is_best_by_construction():
    """Many noisy pictures: their mean lies near the centre. Norms that tell good pictures: weights lie nearer."""
    options = IdentificationOptions(ranks=(1,), fpirs=(0.1,), bootstrap=200)
    even = crowd(120, 12, 64, 2.0, 0)
    found = evaluate_templates(*reversed(split_people(even)), None, ["best", "mean"], options)
    difference = compare(found["best"], found["mean"])["tpir@fpir=1e-1"]
    assert difference["difference"] > 0.1
    assert difference["distinguishable"]
    uneven = crowd(120, 6, 64, 3.0, 1, quality=(0.3, 3.0))
    found = evaluate_templates(*reversed(split_people(uneven)), None, ["mean", "weighted"], options)
    difference = compare(found["mean"], found["weighted"])["tpir@fpir=1e-1"]
    assert difference["difference"] > 0.05
    assert difference["distinguishable"]


def test_evaluate_templates_of_single_pictures_are_all_the_same():
    gallery = crowd(20, 1, 8, 0.5, 0)
    probes = crowd(30, 3, 8, 0.5, 0)
    found = evaluate_templates(probes, gallery, None, ["best", "mean", "weighted"], OPTIONS)
    values = [{metric: figure.value for metric, figure in each.metrics.items()} for each in found.values()]
    assert values[0] == values[1] == values[2]
    assert compare(found["best"], found["weighted"])["rank-1"]["ci95"] == [0, 0]


@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.integers(0, 99))
def test_split_people_enrols_half_and_uses_each_picture_once(sizes, seed):
    people = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    rows = np.arange(len(people), dtype=np.float32)[:, None] + 1
    whole = LabelledEmbeddings(rows, people, [str(n) for n in range(len(people))])
    several = sum(size > 1 for size in sizes)
    if not several:
        with pytest.raises(DataError, match="needs two pictures"):
            split_people(whole, seed)
        return
    gallery, probes = split_people(whole, seed)
    assert sorted([*gallery.names, *probes.names]) == sorted(whole.names)
    assert len(set(gallery.people)) == max(1, several // 2)
    assert set(gallery.people) <= set(probes.people)
    assert set(probes.people) - set(gallery.people)
    for name in set(gallery.people):
        assert gallery.people.count(name) == (people.count(name) + 1) // 2
    assert all(gallery.embeddings[row, 0] == int(name) + 1 for row, name in enumerate(gallery.names))
