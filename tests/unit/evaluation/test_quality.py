"""Error-versus-discard curves by hand, their properties, and intervals that cover a known truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vplface.errors import DataError
from vplface.evaluation.quality import (
    Discarding,
    Norm,
    QualityGate,
    QualityQuestion,
    Recognisability,
    choose_gate,
    compare_scores,
)
from vplface.evaluation.scores import Scores

# Five pictures of two people: qualities 1 to 5; pairs of person 0: (0, 1) missed, (0, 2), (1, 2); of person 1: (3, 4).
QUALITY = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
IDENTITY = np.array([0, 0, 0, 1, 1])
PAIRS = np.array([[0, 1], [0, 2], [1, 2], [3, 4]])
MISSED = np.array([True, False, True, False])
ONES = np.ones(2, np.int64)


def curve(quality=QUALITY, counts=ONES, missed=MISSED):
    return Discarding(quality, IDENTITY, PAIRS, missed).curve(counts)


def test_curve_by_hand():
    found = curve()
    assert found.quality.tolist() == [1, 2, 3, 4, 5]
    assert found.discarded == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    # all: 2 of 4; without picture 0: pairs (1, 2) and (3, 4); without 0 and 1, or 0 to 2: (3, 4) alone; then none
    assert found.fnmr[:4].tolist() == [0.5, 0.5, 0, 0]
    assert np.isnan(found.fnmr[4])


def test_mean_fnmr_by_hand():
    # .5 up to 40 % discarded, then 0
    assert curve().mean_fnmr(0.4) == pytest.approx(0.5)
    assert curve().mean_fnmr(0.5) == pytest.approx(0.4 * 0.5 / 0.5)
    assert curve().mean_fnmr(0.1) == pytest.approx(0.5)
    assert np.isnan(curve().mean_fnmr(0.9))


def test_curve_between_its_steps_discards_at_most_the_share():
    assert curve().at(np.array([0.0, 0.19, 0.2, 0.39, 0.4, 0.5])).tolist() == [0.5, 0.5, 0.5, 0.5, 0, 0]
    assert curve().places(np.array([0.39])).tolist() == [1]


def test_pictures_of_one_quality_go_together():
    found = curve(np.array([1.0, 1, 1, 2, 2]))
    assert found.discarded == pytest.approx([0, 0.6])
    assert found.fnmr.tolist() == [0.5, 0]


def test_curve_of_a_draw_repeats_the_people():
    # person 0 drawn twice, person 1 not: six pictures, of which two are the picture 0
    found = curve(counts=np.array([2, 0]))
    assert found.discarded == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert found.fnmr[:2] == pytest.approx([2 / 3, 1])


def test_constant_quality_gives_a_level_curve():
    found = curve(np.full(5, 7.0))
    assert found.mean_fnmr(0.3) == 0.5
    assert found.at(np.linspace(0, 0.5, 9)).tolist() == [0.5] * 9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_curve_depends_on_neither_order_nor_scale(seed):
    rng = np.random.default_rng(seed)
    people, n = 6, 24
    identity = np.sort(np.append(rng.integers(0, people, n - people), np.arange(people)))
    left, right = np.triu_indices(n, 1)
    same = identity[left] == identity[right]
    pairs = np.stack([left[same], right[same]], axis=1)
    missed, quality = rng.random(len(pairs)) < 0.3, rng.integers(0, 15, n).astype(float)
    counts = rng.integers(0, 3, people) + np.eye(people, dtype=np.int64)[0]
    first = Discarding(quality, identity, pairs, missed).curve(counts)
    transformed = Discarding(np.exp(quality / 3) - 50, identity, pairs, missed).curve(counts)
    order, names, of_pairs = rng.permutation(n), rng.permutation(people), rng.permutation(len(pairs))
    place, relabelled = np.argsort(order), np.empty(people, np.int64)
    relabelled[names] = counts
    moved = Discarding(quality[order], names[identity[order]], place[pairs[of_pairs]][:, ::-1], missed[of_pairs]).curve(
        relabelled
    )
    for other in (transformed, moved):
        np.testing.assert_allclose(other.discarded, first.discarded)
        np.testing.assert_allclose(other.fnmr, first.fnmr)
    # against counting
    for q, discarded, fnmr in zip(first.quality, first.discarded, first.fnmr, strict=True):
        kept = (quality[pairs] >= q).all(axis=1)
        weights = counts[identity[pairs[:, 0]]][kept]
        assert discarded == pytest.approx((counts[identity] * (quality < q)).sum() / counts[identity].sum())
        if weights.sum():
            assert fnmr == pytest.approx((weights * missed[kept]).sum() / weights.sum())
        else:
            assert np.isnan(fnmr)


def test_random_quality_gives_a_level_curve_in_expectation():
    rng = np.random.default_rng(0)
    scores, _ = simulated(rng, people=60)
    means, levels = [], []
    for _ in range(300):
        found = Discarding(rng.random(240), scores.identity, scores.genuine_pairs, scores.genuine < 0).curve(
            np.ones(60, np.int64)
        )
        means.append(found.mean_fnmr(0.3))
        levels.append(found.at(np.array([0.1, 0.3])))
    whole = (scores.genuine < 0).mean()
    for values in (np.array(means), *np.array(levels).T):
        assert abs(values.mean() - whole) < 4 * values.std() / np.sqrt(300)


def test_quality_is_refused_where_a_compared_picture_has_none():
    with pytest.raises(ValueError, match="finite quality"):
        curve(np.array([1, np.nan, 1, 1, 1]))


def simulated(rng, people=40, pictures=4):
    """Genuine pairs that are missed where a picture is poor, and where a person is hard; the quality says which."""
    identity = np.repeat(np.arange(people), pictures)
    poor = rng.random(people * pictures) < 0.25
    hard = rng.random(people) < 0.3
    of_one = np.stack(np.triu_indices(pictures, 1), axis=1)
    pairs = (pictures * np.arange(people)[:, None, None] + of_one).reshape(-1, 2)
    chance = np.where(poor[pairs].any(axis=1), 0.6, np.where(hard[identity[pairs[:, 0]]], 0.2, 0.02))
    genuine = np.where(rng.random(len(pairs)) < chance, -1.0, 1.0)
    order = np.argsort(-genuine, kind="stable")
    impostor = np.array([-2.0])
    return Scores(genuine[order], pairs[order], impostor, np.array([[0, pictures]]), 1, identity), poor


def compared(scores, qualities, replicates=200, share=0.2):
    return compare_scores(scores, QualityQuestion(qualities, share), {"far=1e-1": 0.0}, replicates, 0)["at"]["far=1e-1"]


@pytest.mark.slow
def test_intervals_cover_the_truth():
    rng = np.random.default_rng(11)

    def draw(people):
        scores, poor = simulated(rng, people)
        return scores, {"score": np.where(poor, 0.0, 1.0) + rng.normal(0, 0.4, len(poor))}

    large = compared(*draw(20_000), replicates=0)["scores"]["score"]
    truth = {
        "pauc": large["pauc"]["value"],
        "relative": large["relative"]["value"],
        "at 10 %": large["curve"]["fnmr"][10],
    }
    covered = dict.fromkeys(truth, 0)
    runs = 100
    for _ in range(runs):
        of = compared(*draw(60), replicates=100)["scores"]["score"]
        ends = {key: of[key]["ci95"] for key in ("pauc", "relative")}
        ends["at 10 %"] = (of["curve"]["low"][10], of["curve"]["high"][10])
        for key, (low, high) in ends.items():
            covered[key] += low <= truth[key] <= high
    # three standard deviations of 100 runs at 95 %, and two more for the percentile interval, which is a little short
    assert all(count >= 87 for count in covered.values()), covered
    assert truth["pauc"] < large["curve"]["fnmr"][0]


def test_better_score_has_the_smaller_area_and_the_difference_says_so():
    rng = np.random.default_rng(1)
    scores, poor = simulated(rng, 80)
    good = np.where(poor, 0.0, 1.0) + rng.normal(0, 0.1, len(poor))
    at = compared(scores, {"good": good, "random": rng.random(len(good)), "same": np.exp(good)})
    assert at["scores"]["good"]["relative"]["value"] < 0.8
    assert at["scores"]["good"]["pauc"] == at["scores"]["same"]["pauc"]
    assert at["differences"]["random"]["difference"] == pytest.approx(
        at["scores"]["random"]["pauc"]["value"] - at["scores"]["good"]["pauc"]["value"]
    )
    assert at["differences"]["random"]["distinguishable"]
    assert at["differences"]["same"]["difference"] == 0
    assert not at["differences"]["same"]["distinguishable"]
    json.dumps(at, allow_nan=False)


def test_area_has_a_reason_where_no_pair_is_left():
    scores = Scores(np.array([1.0]), np.array([[0, 1]]), np.array([-1.0]), np.array([[0, 2]]), 1, np.array([0, 0, 1]))
    at = compared(scores, {"q": np.array([0.0, 1.0, 2.0])}, share=0.5)
    assert at["scores"]["q"]["pauc"]["value"] is None
    assert "no genuine pair is left" in at["scores"]["q"]["pauc"]["reason"]
    assert at["scores"]["q"]["curve"]["fnmr"][0] == 0
    assert at["scores"]["q"]["curve"]["fnmr"][-1] is None


def gate_of(**by):
    scores = Scores(
        np.where(MISSED, -1.0, 1.0)[[1, 3, 0, 2]],
        PAIRS[[1, 3, 0, 2]],
        np.array([-2.0]),
        np.array([[0, 3]]),
        1,
        IDENTITY,
    )
    at = compared(scores, {"norm": QUALITY}, replicates=0)
    return choose_gate(at, "norm", {}, **by)


def test_gate_by_the_share_that_is_discarded():
    assert gate_of(discard=0.1) == QualityGate("norm", 1.0, 0.0, 0.5, 0.5, "discard=0.1", {})
    gate = gate_of(discard=0.45)
    assert (gate.least, gate.discarded, gate.fnmr) == (3.0, pytest.approx(0.4), 0.0)


def test_gate_by_the_rate_that_is_left():
    assert gate_of(fnmr=0.5).least == 1.0
    assert gate_of(fnmr=0.49).least == 3.0
    with pytest.raises(ValueError, match="discard or fnmr"):
        gate_of()


def test_gate_that_reaches_no_such_rate():
    rng = np.random.default_rng(0)
    at = compared(simulated(rng, 40)[0], {"norm": rng.random(160)}, replicates=0)
    with pytest.raises(DataError, match=r"an FNMR of 0.0001 is not reached while at most half.*the lowest is 0\.\d+"):
        choose_gate(at, "norm", {}, fnmr=1e-4)


def test_gate_is_read_back_and_refused_where_it_is_damaged():
    gate = gate_of(fnmr=0.1)
    assert QualityGate.from_json(json.loads(json.dumps(gate.to_json())), "x") == gate
    for change in ({"least": "high"}, {"score": 3}, {"described": None}, {"fnmr": float("nan")}):
        with pytest.raises(DataError, match="x: 'quality'"):
            QualityGate.from_json({**gate.to_json(), **change}, "x")
    with pytest.raises(DataError, match="'quality' must have 'score'"):
        QualityGate.from_json({"least": 1}, "x")


def test_norm_by_hand_and_of_normalised_embeddings():
    assert Norm().of_embeddings(np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)).tolist() == [5, 2]
    with pytest.raises(DataError, match="all 3 embeddings have the norm 1"):
        Norm().of_many(np.eye(3, dtype=np.float32))


def test_recognisability_by_hand():
    score = Recognisability(np.array([1.0, 0.0]))
    found = score.of_embeddings(np.array([[2.0, 0.0], [0.0, 5.0], [3.0, 4.0], [-1.0, 0.0]], np.float32))
    assert found == pytest.approx([0, 1, 0.4, 1])
    again = Recognisability.stored(json.loads(json.dumps(score.describe())), "x")
    assert again.direction.tolist() == [1, 0]
    with pytest.raises(DataError, match="belongs to another model"):
        score.of_embeddings(np.ones((2, 3), np.float32))
    for damaged in ({}, {"direction": [0.0, 0.0]}, {"direction": "up"}, {"direction": [[1.0]]}):
        with pytest.raises(DataError, match="x: 'quality': 'direction'"):
            Recognisability.stored(damaged, "x")


@pytest.mark.parametrize("share", [0.0, -1.0, 0.6])
def test_question_refuses_a_share(share):
    with pytest.raises(ValueError, match="share must lie above 0"):
        QualityQuestion({}, share)
