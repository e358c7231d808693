"""evaluate_pairs and evaluate_all_pairs on embeddings with known figures, and comparisons of evaluations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vplface.data.pairs import Pairs
from vplface.errors import DataError
from vplface.evaluation import (
    Evaluation,
    compare,
    evaluate_all_pairs,
    evaluate_all_pairs_embedded,
    evaluate_pairs,
    evaluate_pairs_embedded,
    protocols,
    rates,
    roc_replicates,
)
from vplface.evaluation.metrics import ROC_METRICS
from vplface.evaluation.verification import kfold_accuracy


class People:
    """A picture set without pictures: person k has sizes[k] of them, named "k/i.jpg"."""

    def __init__(self, sizes):
        self.identities = [str(k) for k in range(len(sizes))]
        self.labels = np.repeat(np.arange(len(sizes)), sizes)
        self._names = [f"{k}/{i}.jpg" for k, size in enumerate(sizes) for i in range(size)]

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return self._names[index]

    def picture(self, index):
        raise AssertionError("only the embedder opens pictures")


class Embedder:
    """Returns given embeddings and records the calls."""

    def __init__(self, embeddings):
        self.embeddings = np.asarray(embeddings, np.float32)
        self.asked = []

    def embed_set(self, pictures, indices=None, flip="none", workers=0, description="", unit=True):
        chosen = np.arange(len(pictures)) if indices is None else indices
        self.asked.append((chosen.tolist(), flip))
        return self.embeddings[chosen]


def on_circle(*cosines):
    """Unit vectors, so that the cosine with the first, (1, 0), is as given."""
    return np.array([[c, np.sqrt(1 - c * c)] for c in cosines])


def crowd(seed, identities=30, pictures=4, noise=0.8):
    rng = np.random.default_rng(seed)
    people = People([pictures] * identities)
    x = rng.normal(size=(identities, 12))[people.labels] + noise * rng.normal(size=(len(people), 12))
    return people, x


def some_pairs(people, seed=0, count=400, folds=4):
    rng = np.random.default_rng(seed)
    left = rng.integers(len(people), size=count)
    right = np.where(np.arange(count) % 2, rng.integers(len(people), size=count), left ^ 1)
    different = left != right
    left, right = left[different], right[different]
    return Pairs(
        [people.name(i) for i in left],
        [people.name(i) for i in right],
        people.labels[left] == people.labels[right],
        np.arange(len(left)) % folds,
    )


# Cosines with picture 0/0: genuine .9 and .5, impostor .6, .2.
SMALL = People([3, 2])
SMALL_EMBEDDINGS = 7.0 * on_circle(1.0, 0.9, 0.5, 0.6, 0.2)
SMALL_PAIRS = Pairs(
    ["0/0.jpg"] * 4,
    ["0/1.jpg", "0/2.jpg", "1/0.jpg", "1/1.jpg"],
    np.array([True, True, False, False]),
    np.zeros(4, np.int64),
)


OF_ROC = [kind.name for kind in ROC_METRICS]


def test_evaluate_pairs_without_folds_reports_accuracy_at_best_threshold():
    evaluation = evaluate_pairs(Embedder(SMALL_EMBEDDINGS), SMALL, SMALL_PAIRS, fars=[0.5], bootstrap=0)
    assert list(evaluation.metrics) == ["accuracy@best_threshold", "tar@far=5e-1", *OF_ROC]
    best = evaluation.metrics["accuracy@best_threshold"]
    assert best == {
        "value": 0.75,
        "std": None,
        "ci95": None,
        "threshold": pytest.approx(0.75),
    }  # .6 … .9, wider than .2 … .5
    assert "same pairs" in evaluation.protocol["threshold_from"]
    assert evaluation.metrics["tar@far=5e-1"]["value"] == 1.0
    assert evaluation.metrics["tar@far=5e-1"]["actual_far"] == 0.5
    assert evaluation.metrics["auc"]["value"] == 0.75  # of four comparisons of .9, .5 with .6, .2 one is lost
    assert evaluation.metrics["eer"]["value"] == 0.5
    assert evaluation.correct.tolist() == [True, False, True, True]


def test_evaluate_pairs_takes_the_threshold_from_threshold_pairs():
    other = Pairs(["0/0.jpg", "0/0.jpg"], ["0/1.jpg", "1/0.jpg"], np.array([True, False]), np.zeros(2, np.int64))
    evaluation = evaluate_pairs(
        Embedder(SMALL_EMBEDDINGS), SMALL, SMALL_PAIRS, threshold_pairs=other, fars=[], bootstrap=0
    )
    assert evaluation.metrics["accuracy"] == {
        "value": 0.75,
        "std": None,
        "ci95": None,
        "threshold": pytest.approx(0.75),
    }
    assert evaluation.protocol["threshold_from"] == "2 other pairs"


def test_evaluate_pairs_with_folds_reports_kfold_accuracy():
    people, x = crowd(0)
    pairs = some_pairs(people)
    evaluation = evaluate_pairs(Embedder(x), people, pairs, bootstrap=50)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    index = {people.name(i): i for i in range(len(people))}
    similarity = np.array([unit[index[a]] @ unit[index[b]] for a, b in zip(pairs.left, pairs.right, strict=True)])
    expected = kfold_accuracy(similarity, pairs.same, pairs.fold)
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy["value"] == pytest.approx(expected.mean)
    assert accuracy["std"] == pytest.approx(expected.std)
    assert accuracy["per_fold"] == pytest.approx(expected.per_fold.tolist())
    low, high = accuracy["ci95"]
    assert low < accuracy["value"] < high
    assert 0.01 < high - low < 0.2
    assert evaluation.protocol["folds"] == 4
    grid = evaluate_pairs(Embedder(x), people, pairs, protocol="insightface", bootstrap=0)
    assert grid.metrics["accuracy"]["value"] == pytest.approx(
        kfold_accuracy(similarity, pairs.same, pairs.fold, "insightface").mean
    )
    assert grid.protocol["accuracy_rule"] == "insightface"


def test_evaluate_pairs_replicates_weigh_folds_of_unequal_size_equally():
    people, x = crowd(1)
    pairs = some_pairs(people)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    index = {people.name(i): i for i in range(len(people))}
    similarity = np.array([unit[index[a]] @ unit[index[b]] for a, b in zip(pairs.left, pairs.right, strict=True)])
    ease = np.where(pairs.same, similarity, -similarity)
    hard = np.zeros(len(pairs), bool)
    for kind in (pairs.same, ~pairs.same):  # the hard third of each kind is fold 0
        hard |= kind & (ease < np.quantile(ease[kind], 0.35))
    pairs = replace(pairs, fold=(~hard).astype(np.int64))
    evaluation = evaluate_pairs(Embedder(x), people, pairs, bootstrap=400)
    accuracy = evaluation.metrics["accuracy"]
    assert np.nanmean(evaluation.replicates["accuracy"]) == pytest.approx(accuracy["value"], abs=0.01)
    pooled = np.average(accuracy["per_fold"], weights=np.bincount(pairs.fold))
    assert abs(pooled - accuracy["value"]) > 0.02  # otherwise the two averages could not be distinguished


def test_evaluate_pairs_refuses_folds_of_one_kind_or_of_very_unequal_size():
    people, x = crowd(1)
    pairs = some_pairs(people)
    of_one_kind = replace(pairs, fold=np.where(pairs.same, 7, 3))
    with pytest.raises(DataError, match="fold 3 holds no genuine pairs"):
        evaluate_pairs(Embedder(x), people, of_one_kind)
    unlike = replace(pairs, fold=(np.arange(len(pairs)) > 40).astype(np.int64))
    with pytest.raises(DataError, match=r"fold 1 holds \d+ pairs, fold 0 only 41"):
        evaluate_pairs(Embedder(x), people, unlike)
    # With threshold_pairs, no fold chooses the threshold of another.
    assert "accuracy" in evaluate_pairs(Embedder(x), people, unlike, threshold_pairs=pairs, bootstrap=0).metrics


def test_evaluate_pairs_fnmr_is_1_minus_tar():
    people, x = crowd(0)
    evaluation = evaluate_pairs(Embedder(x), people, some_pairs(people), fars=[0.1], fmrs=[0.1, 1e-4], bootstrap=60)
    accepted, wrong = evaluation.metrics["tar@far=1e-1"], evaluation.metrics["fnmr@fmr=1e-1"]
    assert wrong["value"] == 1 - accepted["value"] > 0
    assert wrong["ci95"] == pytest.approx([1 - accepted["ci95"][1], 1 - accepted["ci95"][0]])
    assert wrong["threshold"] == accepted["threshold"]
    assert "impostor pairs" in evaluation.metrics["fnmr@fmr=1e-4"]["reason"]


def test_evaluate_pairs_roc_band_agrees_with_the_curve_and_the_quoted_intervals():
    people, x = crowd(0)
    evaluation = evaluate_pairs(Embedder(x), people, some_pairs(people), fars=[0.1], bootstrap=200)
    band = {key: np.array(values) for key, values in evaluation.curves["roc_band"].items()}
    assert (np.diff(band["far"]) > 0).all()
    assert band["far"][-1] == 1.0
    far, tar = (np.array(evaluation.curves["roc"][key]) for key in ("far", "tar"))
    on_curve = tar[np.searchsorted(far, band["far"] * (1 + 1e-9), side="right") - 1]
    inside = (band["low"] <= on_curve) & (on_curve <= band["high"])
    assert inside.mean() > 0.9
    low, high = evaluation.metrics["tar@far=1e-1"]["ci95"]
    above = np.searchsorted(band["far"], 0.1)
    assert band["low"][above - 1] <= low <= band["low"][above]
    assert band["high"][above - 1] <= high <= band["high"][above]


def test_evaluate_all_pairs_embedded_rates_from_the_highest_impostors_stay_close(monkeypatch):
    people, x = crowd(2, identities=80, noise=1.2)
    exact = evaluate_all_pairs_embedded(x, people, flip="none", bootstrap=40)
    monkeypatch.setattr(protocols, "_KEEP_AT_LEAST", 500)
    for module in (protocols, rates, roc_replicates):
        monkeypatch.setattr(module, "tail_length", lambda far, impostors: int(4 * far * impostors) + 1)
    cut = evaluate_all_pairs_embedded(x, people, flip="none", bootstrap=40)
    for metric in ("eer", "auc"):
        assert cut.metrics[metric]["value"] == pytest.approx(exact.metrics[metric]["value"], abs=1e-3)
    assert cut.metrics["tar@far=1e-2"] == exact.metrics["tar@far=1e-2"]
    assert cut.metrics["auc"]["ci95"] is None  # the lower scores are not kept, so they cannot be resampled
    assert "auc" not in cut.replicates
    assert exact.metrics["auc"]["ci95"] is not None


def test_evaluate_pairs_embeds_only_the_pictures_of_the_pairs():
    embedder = Embedder(SMALL_EMBEDDINGS)
    pairs = Pairs(["0/0", "0/0"], ["0/2", "1/1"], np.array([True, False]), np.zeros(2, np.int64))
    evaluate_pairs(embedder, SMALL, pairs, flip="none", bootstrap=0)
    assert embedder.asked == [([0, 2, 4], "none")]


def test_evaluate_pairs_gives_a_reason_where_impostors_are_too_few():
    people, x = crowd(0)
    pairs = some_pairs(people)
    evaluation = evaluate_pairs(Embedder(x), people, pairs, fars=[1e-4, 1e-1], bootstrap=20)
    assert list(evaluation.metrics) == ["accuracy", "tar@far=1e-1", "tar@far=1e-4", *OF_ROC]
    absent = evaluation.metrics["tar@far=1e-4"]
    assert (absent["value"], absent["ci95"]) == (None, None)
    assert "10,000 impostor pairs" in absent["reason"]
    assert set(evaluation.replicates) == {"accuracy", "tar@far=1e-1", *OF_ROC}
    low, high = evaluation.metrics["tar@far=1e-1"]["ci95"]
    assert low <= evaluation.metrics["tar@far=1e-1"]["value"] <= high


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_evaluate_pairs_and_evaluate_all_pairs_name_zero_and_non_finite_embeddings(bad):
    broken = SMALL_EMBEDDINGS.copy()
    broken[3] *= bad if bad == 0.0 else 1.0
    broken[3, 0] = bad
    with pytest.raises(DataError, match=r"1 of 5 embeddings are zero or not finite, the first is that of 1/0\.jpg"):
        evaluate_pairs(Embedder(broken), SMALL, SMALL_PAIRS)
    with pytest.raises(DataError, match=r"1/0\.jpg"):
        evaluate_all_pairs(Embedder(broken), SMALL)
    pairs = Pairs(["0/0", "0/0"], ["0/2", "1/1"], np.array([True, False]), np.zeros(2, np.int64))
    evaluate_pairs_embedded(broken, SMALL, pairs, flip="none", bootstrap=0)  # no pair contains 1/0


def test_evaluate_pairs_and_evaluate_all_pairs_refuse_pairs_of_one_kind():
    same = Pairs(["0/0"], ["0/1"], np.array([True]), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="all 1 pairs show one person"):
        evaluate_pairs(Embedder(SMALL_EMBEDDINGS), SMALL, same)
    with pytest.raises(DataError, match="no two people"):
        evaluate_all_pairs(Embedder(SMALL_EMBEDDINGS[:3]), People([3]))
    with pytest.raises(DataError, match="no two pictures of one person"):
        evaluate_all_pairs(Embedder(SMALL_EMBEDDINGS[:3]), People([1, 1, 1]))


def test_evaluate_all_pairs_embedded_refuses_a_wrong_number_of_embeddings():
    with pytest.raises(ValueError, match="a row per picture"):
        evaluate_all_pairs_embedded(SMALL_EMBEDDINGS[:4], SMALL, flip="none")


def test_evaluate_all_pairs_matches_values_computed_by_hand():
    evaluation = evaluate_all_pairs(Embedder(SMALL_EMBEDDINGS), SMALL, flip="none", fars=[0.5, 1e-3], bootstrap=0)
    # Angles 0, 25.8, 60 of person 0 and 53.1, 78.5 of person 1.
    assert evaluation.protocol["kind"] == "all pairs"
    counted = ("pictures", "pairs", "genuine", "impostors", "identities")
    assert [evaluation.protocol[key] for key in counted] == [5, 10, 4, 6, 2]
    degrees = np.degrees(np.arccos([1.0, 0.9, 0.5, 0.6, 0.2]))
    genuine = [abs(degrees[a] - degrees[b]) for a, b in ((0, 1), (0, 2), (1, 2), (3, 4))]
    impostor = sorted(abs(degrees[a] - degrees[b]) for a in range(3) for b in (3, 4))
    expected = np.mean(np.array(genuine) < impostor[3])
    assert evaluation.metrics["tar@far=5e-1"]["value"] == expected
    assert evaluation.metrics["tar@far=1e-3"]["value"] is None
    assert evaluation.worst["impostor"][0] == {
        "left": "0/2.jpg",
        "right": "1/0.jpg",
        "similarity": pytest.approx(np.cos(np.radians(impostor[0]))),
    }
    assert evaluation.worst["genuine"][0]["right"] == "0/2.jpg"
    assert sum(evaluation.curves["histogram"]["genuine"]) == 4
    assert sum(evaluation.curves["histogram"]["impostor"]) == 6
    assert len(evaluation.curves["histogram"]["edges"]) == len(evaluation.curves["histogram"]["impostor"]) + 1 == 101


def test_evaluate_all_pairs_embedded_agrees_with_a_list_of_all_pairs():
    people, x = crowd(2)
    left, right = np.triu_indices(len(people), 1)
    everything = Pairs(
        [people.name(i) for i in left],
        [people.name(i) for i in right],
        people.labels[left] == people.labels[right],
        np.zeros(len(left), np.int64),
    )
    listed = evaluate_pairs_embedded(x, people, everything, flip="none", fars=[0.1, 0.01], bootstrap=30)
    blocked = evaluate_all_pairs_embedded(x, people, flip="none", fars=[0.1, 0.01], bootstrap=30)
    for metric in ("tar@far=1e-1", "tar@far=1e-2"):
        assert listed.metrics[metric]["value"] == blocked.metrics[metric]["value"]
        np.testing.assert_allclose(listed.replicates[metric], blocked.replicates[metric])
    assert listed.curves["histogram"] == blocked.curves["histogram"]
    np.testing.assert_allclose(listed.curves["roc"]["tar"], blocked.curves["roc"]["tar"])


def test_evaluate_all_pairs_embedded_rank_1_agrees_with_a_loop():
    _, x = crowd(5, identities=25, pictures=3, noise=1.0)
    alone = People([3] * 25 + [1] * 5)  # five more people of one picture: without mates, but in the gallery
    x = np.concatenate([x, np.random.default_rng(9).normal(size=(5, 12))])
    evaluation = evaluate_all_pairs_embedded(x, alone, flip="none", fars=[0.1], bootstrap=200)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = []
    for k in range(75):
        similarity = unit @ unit[k]
        similarity[k] = -np.inf
        right.append(alone.labels[int(similarity.argmax())] == alone.labels[k])
    figure = evaluation.metrics["rank-1"]
    assert figure["value"] == np.mean(right)
    assert 0.2 < figure["value"] < 0.98
    drawn = np.bincount(np.random.default_rng((0, 0)).integers(30, size=30), minlength=30)
    per_person = np.array(right).reshape(25, 3).sum(axis=1)
    assert evaluation.replicates["rank-1"][0] == pytest.approx((drawn[:25] @ per_person) / (3 * drawn[:25].sum()))
    assert figure["ci95"][0] < figure["value"] < figure["ci95"][1]


def test_evaluate_all_pairs_embedded_rank_1_counts_a_tie_as_wrong():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    evaluation = evaluate_all_pairs_embedded(x, People([2, 1, 2]), flip="none", fars=[0.5], bootstrap=0)
    assert evaluation.metrics["rank-1"]["value"] == 0.5  # person 0 ties with 1 in both pictures; person 2 is right


def test_evaluate_all_pairs_embedded_worst_pairs_name_each_picture_once():
    people, x = crowd(3, identities=50)
    evaluation = evaluate_all_pairs_embedded(x, people, flip="none", bootstrap=0)
    for kind in ("genuine", "impostor"):
        names = [pair[side] for pair in evaluation.worst[kind] for side in ("left", "right")]
        assert len(names) == len(set(names)) == 32
    genuine = [pair["similarity"] for pair in evaluation.worst["genuine"]]
    impostor = [pair["similarity"] for pair in evaluation.worst["impostor"]]
    assert genuine == sorted(genuine)
    assert impostor == sorted(impostor, reverse=True)


def test_evaluate_pairs_counts_pairs_that_contradict_the_folders():
    wrong = replace(SMALL_PAIRS, same=np.array([True, False, False, False]))
    evaluation = evaluate_pairs(Embedder(SMALL_EMBEDDINGS), SMALL, wrong, bootstrap=0)
    assert evaluation.protocol["contradicted_by_folders"] == 1
    fine = evaluate_pairs(Embedder(SMALL_EMBEDDINGS), SMALL, SMALL_PAIRS, bootstrap=0)
    assert "contradicted_by_folders" not in fine.protocol


def test_Evaluation_from_dict_restores_what_to_dict_wrote():
    people, x = crowd(0)
    evaluation = evaluate_pairs_embedded(x, people, some_pairs(people), name="crowd", flip="sum", bootstrap=30)
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))
    assert again.to_dict() == evaluation.to_dict() == json.loads(text)
    assert again.name == "crowd"
    assert again.correct.tolist() == evaluation.correct.tolist()
    assert compare(evaluation, again)["accuracy"]["difference"] == 0.0
    earlier = {key: value for key, value in json.loads(text).items() if key not in ("correct", "groups")}
    assert "mcnemar" not in compare(evaluation, Evaluation.from_dict(earlier))["accuracy"]
    damaged = json.loads(text)
    del damaged["metrics"], damaged["curves"]
    with pytest.raises(DataError, match="'metrics', 'curves' missing"):
        Evaluation.from_dict(damaged)


def test_compare_paired_interval_is_sharper_than_two_separate_intervals():
    people, x = crowd(4, identities=60)
    rng = np.random.default_rng(0)
    better = x - 0.12 * (x - np.repeat(x.reshape(60, 4, -1).mean(axis=1), 4, axis=0))
    asked = {"flip": "none", "fars": [1e-1, 1e-2], "bootstrap": 300}
    first, second = (evaluate_all_pairs_embedded(e, people, **asked) for e in (x, better))
    found = compare(first, second)["tar@far=1e-2"]
    ends = [side.metrics["tar@far=1e-2"]["ci95"] for side in (first, second)]
    assert ends[0][1] > ends[1][0]  # the two intervals overlap
    assert found["difference"] == pytest.approx(
        second.metrics["tar@far=1e-2"]["value"] - first.metrics["tar@far=1e-2"]["value"]
    )
    assert found["difference"] > 0
    assert found["distinguishable"]
    assert found["ci95"][0] > 0
    assert compare(second, first)["tar@far=1e-2"]["ci95"] == pytest.approx([-end for end in found["ci95"][::-1]])

    same = compare(first, first)["tar@far=1e-2"]
    assert same == {"difference": 0.0, "ci95": [0.0, 0.0], "distinguishable": False}
    shaken = evaluate_all_pairs_embedded(x + 0.02 * rng.normal(size=x.shape), people, **asked)
    assert not compare(first, shaken)["tar@far=1e-2"]["distinguishable"]


@pytest.mark.slow
def test_compare_seldom_distinguishes_equal_models():
    told = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        people, x = crowd(trial, identities=30, pictures=3, noise=0.0)
        first, second = (
            evaluate_all_pairs_embedded(x + rng.normal(size=x.shape), people, flip="none", fars=[0.05], bootstrap=100)
            for _ in range(2)
        )
        told += compare(first, second)["tar@far=5e-2"]["distinguishable"]
    assert told <= 6


def test_compare_refuses_evaluations_of_different_pairs_or_options():
    people, x = crowd(0)
    pairs = some_pairs(people)
    first = evaluate_pairs_embedded(x, people, pairs, flip="none", bootstrap=10)
    others = [
        evaluate_pairs_embedded(x, people, some_pairs(people, seed=1), flip="none", bootstrap=10),
        evaluate_pairs_embedded(x, people, pairs, flip="none", bootstrap=11),
        evaluate_pairs_embedded(x, people, pairs, flip="none", bootstrap=10, seed=1),
        evaluate_pairs_embedded(x, people, replace(pairs, fold=pairs.fold % 2), flip="none", bootstrap=10),
        evaluate_all_pairs_embedded(x, people, flip="none", bootstrap=10),
    ]
    for other in others:
        with pytest.raises(ValueError, match="cannot be compared"):
            compare(first, other)
