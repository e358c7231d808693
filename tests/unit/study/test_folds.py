"""Figures over folds of people: means by hand, and intervals that cover a known truth as often as they say."""

import numpy as np
import pytest

from vplface.evaluation import Evaluation
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.figure import Figure
from vplface.study.folds import join_folds
from vplface.study.pool import paired

METRIC = "rank-1"


def evaluation(value, replicates=(), people=10, fingerprint="f", **details):
    found = {METRIC: np.array(replicates)} if len(replicates) else {}
    return {
        "test": Evaluation(
            "test",
            {"identities": people},
            {METRIC: Figure(value, details=details)},
            fingerprint=fingerprint,
            replicates=found,
        )
    }


def test_join_folds_by_hand():
    joined = join_folds(
        [
            evaluation(0.5, [0.4, 0.5, 0.6], people=10),
            evaluation(0.8, [0.7, 0.8, 0.9], people=30),
            evaluation(0.2, [0.1, 0.2, 0.3], people=20),
        ]
    )["test"]
    assert joined.metrics[METRIC].value == pytest.approx((10 * 0.5 + 30 * 0.8 + 20 * 0.2) / 60)
    assert joined.metrics[METRIC]["per_fold"] == [0.5, 0.8, 0.2]
    by_hand = [
        (10 * 0.4 + 30 * 0.8 + 20 * 0.3) / 60,
        (10 * 0.5 + 30 * 0.9 + 20 * 0.1) / 60,
        (10 * 0.6 + 30 * 0.7 + 20 * 0.2) / 60,
    ]
    assert joined.replicates[METRIC] == pytest.approx(by_hand)
    assert joined.metrics[METRIC].interval == interval(joined.replicates[METRIC], 60)
    assert joined.protocol["identities"] == 60
    assert joined.protocol["people_of_folds"] == [10, 30, 20]


def test_join_folds_names_the_fold_that_lacks_a_figure():
    joined = join_folds([evaluation(0.5, [0.5]), evaluation(None, reason="too few impostor pairs")])["test"]
    assert joined.metrics[METRIC].value is None
    assert joined.metrics[METRIC]["reason"] == "fold 2: too few impostor pairs"
    assert METRIC not in joined.replicates
    nothing = {"test": Evaluation("test", {"identities": 10}, {}, fingerprint="f")}
    joined = join_folds([nothing, evaluation(0.5)])["test"]
    assert joined.metrics[METRIC]["reason"] == "fold 1: not measured"


def test_join_folds_tells_apart_other_pairs_of_one_fold():
    one, same, other = (
        join_folds([evaluation(0.5, [0.5]), evaluation(0.5, [0.5], fingerprint=mark)])["test"].fingerprint
        for mark in ("f", "f", "g")
    )
    assert one == same != other


def scores(rng, people, truth):
    """Scores of two arms for the same people: the second is higher by ``truth`` in the mean."""
    common = rng.normal(0.5, 0.2, people)
    return common, common + rng.normal(truth, 0.1, people)


def measured(each, drawn, fingerprint):
    """The mean score of a fold's people with its bootstrap over people."""
    return evaluation(float(each.mean()), drawn @ each / len(each), len(each), fingerprint)


def resampled(people, replicates):
    return np.array(
        [
            np.bincount(np.random.default_rng((0, r)).integers(people, size=people), minlength=people)
            for r in range(replicates)
        ]
    )


def test_intervals_over_folds_cover_the_truth_and_shrink_with_the_root_of_their_number():
    rng, truth, folds, people, replicates, studies = np.random.default_rng(0), 0.02, 5, 60, 120, 250
    drawn = resampled(people, replicates)
    covered, joined_width, single_width = 0, [], []
    for _ in range(studies):
        arms = ([], [])
        for fold in range(folds):
            for arm, each in zip(arms, scores(rng, people, truth), strict=True):
                arm.append(measured(each, drawn, str(fold)))
        [low, high] = paired({0: join_folds(arms[0])}, {0: join_folds(arms[1])})["test"][METRIC]["ci95"]
        covered += low <= truth <= high
        joined_width.append(high - low)
        [low, high] = paired({0: arms[0][0]}, {0: arms[1][0]})["test"][METRIC]["ci95"]
        single_width.append(high - low)
    assert covered / studies == pytest.approx(0.95, abs=0.035)
    assert np.mean(single_width) / np.mean(joined_width) == pytest.approx(np.sqrt(folds), rel=0.05)


def test_intervals_over_folds_and_seeds_cover_the_truth():
    """Scores of a run also depend on its seed, which the bootstrap over seeds and Student's interval must see."""
    rng, truth, folds, seeds, people, replicates, studies = np.random.default_rng(1), 0.02, 3, 5, 40, 120, 150
    drawn = resampled(people, replicates)
    bootstrap = student = 0
    for _ in range(studies):
        arms = ({}, {})
        gains = [scores(rng, people, truth) for _ in range(folds)]
        for seed in range(seeds):
            runs = ([], [])
            for fold, of_arms in enumerate(gains):
                for arm, each in zip(runs, of_arms, strict=True):
                    arm.append(measured(each + rng.normal(0, 0.02), drawn, str(fold)))
            for arm, of_seed in zip(arms, runs, strict=True):
                arm[seed] = join_folds(of_seed)
        entry = paired(*arms)["test"][METRIC]
        bootstrap += entry["ci95"][0] <= truth <= entry["ci95"][1]
        given = np.mean([(second - first).mean() for first, second in gains])  # the difference on these people
        student += entry["t_ci95"][0] <= given <= entry["t_ci95"][1]
    assert 0.88 < bootstrap / studies < 0.99
    assert student / studies == pytest.approx(0.95, abs=0.04)
