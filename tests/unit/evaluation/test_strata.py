"""Strata against pairs counted by hand and one by one."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.data.degrade import Blur, Degradation
from vplface.data.pairs import Pairs
from vplface.data.selection import Subset
from vplface.evaluation import EvalOptions, Evaluation, compare
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.recognisability import norm_of_mean
from vplface.evaluation.scores import scores_of_pairs
from vplface.evaluation.strata import STRATA, Quality, stratify
from vplface.evaluation.task import VerificationTask


def quality_of(x, poor, identity, replicates=0, seed=0):
    return Quality.of(x, np.arange(len(x)), poor, identity, replicates, seed)


def values(at):
    return {name: [of[kind]["value"] for kind in ("fnmr", "fmr", "tail")] for name, of in at["strata"].items()}


def test_stratify_counts_a_list_of_pairs():
    labels = np.array([0, 0, 1, 1, 2, 2])
    poor = np.array([False, True, False, True, False, True])
    x = np.eye(6)
    pairs = np.array([[0, 1], [2, 3], [4, 5], [0, 2], [0, 4], [2, 4], [1, 3], [1, 5], [0, 3]])
    same = np.array([True] * 3 + [False] * 6)
    similarity = np.array([0.9, 0.3, 0.2, 0.1, 0.6, 0.2, 0.8, 0.7, 0.5])
    scores = scores_of_pairs(similarity, same, *pairs.T, labels)
    found, figures = stratify(scores, quality_of(x, poor, scores.identity), {0.5: 0.45, 0.1: 0.75}, 0, 0)
    assert found["pairs"] == {
        "both good": {"genuine": 0, "impostors": 3, "share": 3 / 6},
        "one poor": {"genuine": 3, "impostors": 1, "share": 1 / 6},
        "both poor": {"genuine": 0, "impostors": 2, "share": 2 / 6},
    }
    loose, strict = found["at"]["far=5e-1"], found["at"]["far=1e-1"]
    assert (loose["accepted"], strict["accepted"]) == (4, 1)
    assert values(loose) == {
        "both good": [None, pytest.approx(1 / 3), 0.25],
        "one poor": [pytest.approx(2 / 3), 1.0, 0.25],
        "both poor": [None, 1.0, 0.5],
    }
    assert values(strict) == {
        "both good": [None, 0, 0],
        "one poor": [pytest.approx(2 / 3), 0, 0],
        "both poor": [None, 0.5, 1],
    }
    assert {key: figure.value for key, figure in figures.of.items()} == {
        "poor_norm": 0.0,
        "tail_both_poor@far=5e-1": 0.5,
        "tail_both_poor@far=1e-1": 1.0,
    }
    assert not figures.replicates


def counted(x, labels, poor, threshold, weight):
    """Pairs and errors [kind, stratum] of all pairs, one by one; the weight of each person repeats the pairs."""
    total, wrong = np.zeros((2, 3)), np.zeros((2, 3))
    for i in range(len(x)):
        for j in range(i):
            same = labels[i] == labels[j]
            w = weight[labels[i]] * (1 if same else weight[labels[j]])
            accepted = np.float32(x[i]) @ np.float32(x[j]) >= threshold
            place = int(not same), int(poor[i]) + int(poor[j])
            total[place] += w
            wrong[place] += w * (accepted != same)
    return total, wrong


@pytest.mark.parametrize("keep", [10**6, 900])
def test_stratify_agrees_with_counting_all_pairs_one_by_one(keep):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 4)
    poor = rng.random(48) < 0.4
    x = rng.normal(size=(12, 6))[labels] + 0.9 * rng.normal(size=(48, 6)) + 1.5 * poor[:, None]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = score_all_pairs(x, labels, keep).scores
    assert scores.complete == (keep == 10**6)
    found, figures = stratify(scores, quality_of(x, poor, labels, 20, 3), {0.1: 0.7, 0.01: 0.85}, 20, 3)
    draws = [np.bincount(np.random.default_rng((3, k)).integers(12, size=12), minlength=12) for k in range(20)]
    for point, threshold in (("far=1e-1", 0.7), ("far=1e-2", 0.85)):
        total, wrong = counted(x, labels, poor, threshold, np.ones(12))
        drawn = [counted(x, labels, poor, threshold, weight) for weight in draws]
        at = found["at"][point]
        assert at["accepted"] == wrong[1].sum() > 20
        for k, name in enumerate(STRATA):
            assert [found["pairs"][name][kind] for kind in ("genuine", "impostors")] == total[:, k].tolist()
            expected = (
                ("fnmr", wrong[0, k] / total[0, k], [w[0, k] / t[0, k] for t, w in drawn]),
                ("fmr", wrong[1, k] / total[1, k], [w[1, k] / t[1, k] for t, w in drawn]),
                ("tail", wrong[1, k] / wrong[1].sum(), [w[1, k] / w[1].sum() for _, w in drawn]),
            )
            for kind, value, replicates in expected:
                figure = at["strata"][name][kind]
                assert figure["value"] == pytest.approx(value)
                assert figure["ci95"] == pytest.approx(np.quantile(replicates, [0.025, 0.975]).tolist())
        tail = figures.replicates[f"tail_both_poor@{point}"]
        np.testing.assert_allclose(tail, [w[1, 2] / w[1].sum() for _, w in drawn])
        assert figures.of[f"tail_both_poor@{point}"].to_json() == at["strata"]["both poor"]["tail"]
    norm = figures.of["poor_norm"]
    assert norm.value == pytest.approx(norm_of_mean(x[poor], labels[poor], np.ones((1, 12), np.int64))[0])
    np.testing.assert_allclose(figures.replicates["poor_norm"], norm_of_mean(x[poor], labels[poor], np.array(draws)))


def test_stratify_finds_the_tail_among_poor_pictures_that_lie_together():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 3)
    poor = np.arange(300) % 3 == 0
    x = rng.normal(size=(100, 32))[labels] + 0.3 * rng.normal(size=(300, 32))
    x[poor] = rng.normal(size=(100, 32)) + 1.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found, figures = stratify(
        score_all_pairs(x, labels, 10**6).scores, quality_of(x, poor, labels, 50), {0.01: 0.8}, 50, 0
    )
    assert found["pairs"]["both poor"]["share"] == pytest.approx(1 / 9, abs=0.01)
    assert figures.of["tail_both_poor@far=1e-2"].value > 0.99
    assert found["pictures"]["poor"]["norm"]["value"] == pytest.approx(1.5 / np.sqrt(1 + 1.5**2), abs=0.02)
    assert found["pictures"]["good"]["norm"]["value"] < 0.1
    assert found["pictures"]["poor"]["recognisability"][1] < 0.3 < 0.9 < found["pictures"]["good"]["recognisability"][1]


def test_Quality_tells_the_recognisability_of_a_pair():
    x = np.array([[0.6, 0.8], [0.6, -0.8], [0.0, 1.0], [-1.0, 0.0]])
    quality = quality_of(x, np.array([True, True, False, False]), np.array([0, 1, 0, 1]))
    assert quality.of_pair(0, 2) == {"poor": [True, False], "recognisability": [0.4, 1.0]}
    stored = quality.to_json(np.array([0, 1, 0, 1]))
    assert stored["pictures"]["good"]["recognisability"] == [1.0, 1.0, 1.0]
    assert (sum(stored["cosine"]["good"]), sum(stored["cosine"]["poor"])) == (2, 2)


def test_Quality_leaves_out_pictures_that_are_not_compared():
    x = np.array([[0.6, 0.8], [0.6, -0.8]])
    poor, identity = np.array([True, False, True, True]), np.array([0, -1, 1, -1])
    quality = Quality.of(x, np.array([0, 2]), poor, identity, 0, 0)
    stored = quality.to_json(identity)
    assert {name: of["count"] for name, of in stored["pictures"].items()} == {"good": 0, "poor": 2}
    assert np.isnan(quality.cosine).tolist() == [False, True, False, True]
    assert stored["pictures"]["good"]["recognisability"] is None
    assert stored["pictures"]["good"]["norm"]["reason"] == "no good pictures of two people"


@pytest.mark.parametrize("all_poor", [True, False])
def test_stratify_gives_no_figure_of_strata_without_pairs(all_poor):
    x = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    labels = np.array([0, 0, 1, 1])
    found, figures = stratify(
        score_all_pairs(x, labels, 10).scores, quality_of(x, np.full(4, all_poor), labels, 10), {0.5: 0.5}, 10, 0
    )
    empty = "both good" if all_poor else "both poor"
    at = found["at"]["far=5e-1"]["strata"]
    assert values(found["at"]["far=5e-1"])[empty] == [None, None, 0.0]
    assert values(found["at"]["far=5e-1"])["one poor"] == [None, None, 0.0]
    assert at["one poor"]["fnmr"] == {"value": None, "ci95": None}
    assert (figures.of["poor_norm"].value is None) == (not all_poor)


class People:
    """Three pictures each of four people."""

    def __init__(self):
        self.labels = np.repeat(np.arange(4), 3)
        self.identities = [str(label) for label in range(4)]

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{self.labels[index]}/{index % 3}.png"


PEOPLE = People()
EMBEDDINGS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
OPTIONS = EvalOptions(flip=None, fars=[0.5], bootstrap=20)


def test_VerificationTask_evaluate_has_strata_only_where_pictures_are_degraded():
    degradation = Degradation(Blur(), share=0.5, seed=1)
    task = VerificationTask("all", PEOPLE).with_degraded(degradation)
    evaluation = task.evaluate(EMBEDDINGS, OPTIONS)
    poor = [degradation.is_chosen(PEOPLE.name(index)) for index in range(12)]
    assert evaluation.strata["pictures"]["poor"]["count"] == sum(poor) > 0
    assert evaluation.strata["pairs"]["both poor"]["impostors"] > 0
    assert {"tail_both_poor@far=5e-1", "poor_norm"} <= set(evaluation.metrics) & set(evaluation.replicates)
    for pair in evaluation.worst["impostor"]:
        assert pair["poor"] == [degradation.is_chosen(pair[side]) for side in ("left", "right")]
        assert all(0 <= score <= 1 for score in pair["recognisability"])
    stored = Evaluation.from_dict(evaluation.to_dict())
    assert stored.to_dict() == evaluation.to_dict()
    other = task.evaluate(EMBEDDINGS + 1, OPTIONS)
    assert compare(stored, other)["poor_norm"]["difference"] > 0
    clean = VerificationTask("all", PEOPLE).evaluate(EMBEDDINGS, OPTIONS)
    assert not clean.strata
    assert set(evaluation.metrics) - set(clean.metrics) == {"tail_both_poor@far=5e-1", "poor_norm"}
    assert list(clean.worst["impostor"][0]) == ["left", "right", "similarity"]


def test_VerificationTask_evaluate_says_why_there_is_no_tail():
    task = VerificationTask("all", PEOPLE).with_degraded(Degradation(Blur(), share=0.5, seed=1))
    evaluation = task.evaluate(EMBEDDINGS, EvalOptions(flip=None, fars=[0.5, 1e-4], bootstrap=20))
    assert list(evaluation.strata["at"]) == ["far=5e-1"]
    figure = evaluation.metrics["tail_both_poor@far=1e-4"]
    assert figure.value is None
    assert "needs at least 10,000 impostor pairs" in figure.details["reason"]
    assert "tail_both_poor@far=1e-4" not in evaluation.replicates


def test_VerificationTask_evaluate_counts_the_probes_of_a_list_as_poor():
    left, right = ["0/0.png", "1/0.png", "2/0.png", "0/0.png"], ["0/1.png", "1/2.png", "1/0.png", "1/1.png"]
    pairs = Pairs(left, right, np.array([True, True, False, False]), np.zeros(4, np.int64))
    task = VerificationTask("some", PEOPLE, pairs).with_degraded(Degradation(Blur(), probes=True))
    embeddings = np.random.default_rng(1).normal(size=(24, 5)).astype(np.float32)
    strata = task.evaluate(embeddings, OPTIONS).strata
    assert [strata["pairs"]["one poor"][kind] for kind in ("genuine", "impostors", "share")] == [2, 2, 1.0]
    assert strata["at"]["far=5e-1"]["strata"]["one poor"]["tail"]["value"] == 1.0
    assert strata["pictures"]["poor"]["count"] == 4


def test_VerificationTask_evaluate_stratifies_the_chosen_pictures():
    degradation = Degradation(Blur(), share=0.5, seed=1)
    chosen = np.arange(3, 12)
    task = VerificationTask("some", PEOPLE, chosen=chosen).with_degraded(degradation)
    alone = VerificationTask("some", Subset(PEOPLE, chosen)).with_degraded(degradation)
    assert task.evaluate(EMBEDDINGS, OPTIONS).strata == alone.evaluate(EMBEDDINGS[3:], OPTIONS).strata
