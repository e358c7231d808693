"""Stored thresholds: counted by hand, verdicts, invariance, and coverage in worlds where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.impostors import THRESHOLD, both, independent, scores_in, with_people_who_match_everybody
from vplface.errors import DataError
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.promise import Promise, comparisons_of, measure_promise, rates_at
from vplface.evaluation.scores import scores_of_pairs

PEOPLE, FNMR, TRIALS = 40, 0.1, 150
LEAST = 0.95 - 3 * np.sqrt(0.95 * 0.05 / TRIALS)


def six_people():
    """Two pictures of each of six people, and five of their 15 pairs."""
    same = np.repeat([True, False], [6, 5])
    left = np.array([0, 2, 4, 6, 8, 10, 0, 2, 4, 0, 1])
    right = np.array([1, 3, 5, 7, 9, 11, 2, 4, 6, 8, 10])
    similarity = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1, 0.2, 0.55, 0.3, 0.05])
    return similarity, same, left, right, np.repeat(np.arange(6), 2)


def test_measure_promise_counts_errors_at_the_stored_threshold():
    found = measure_promise(scores_of_pairs(*six_people()), Promise(0.55, 0.1), 50, 0)
    assert (found["fmr"]["errors"], found["fmr"]["pairs"], found["fmr"]["value"]) == (1, 5, 0.2)  # 0.55 is accepted
    assert (found["fnmr"]["errors"], found["fnmr"]["pairs"]) == (2, 6)
    # 0–1, 1–2, 2–3, 0–4, 0–5: two that share nobody, such as 0–4 and 2–3, and 1 is then alone
    assert (found["people"], found["independent_comparisons"]) == (6, 2)
    assert found["verdict"] == "undecided"
    assert found["sentence"].startswith(
        "Whether the promised FAR of 0.1 holds cannot be decided with these 6 people: 1 "
    )
    assert "may lie on either side of it" in found["sentence"]
    assert "at least 57 people" in found["sentence"]  # 2 · ln 0.05 / ln 0.9 = 56.9


@pytest.mark.parametrize(("far", "rate", "verdict"), [(0.2, 0.01, "holds"), (0.05, 0.4, "violated")])
def test_measure_promise_decides_where_the_people_suffice(far, rate, verdict):
    scores, _ = scores_in(independent(rate), np.random.default_rng(0), 60, FNMR)
    found = measure_promise(scores, Promise(THRESHOLD, far), 100, 0)
    assert found["verdict"] == verdict
    assert f"The promised FAR of {far:g} {'holds on' if verdict == 'holds' else 'is violated on'}" in found["sentence"]


def test_measure_promise_says_where_only_the_bound_is_above():
    scores, _ = scores_in(independent(0.02), np.random.default_rng(0), 60, FNMR)
    found = measure_promise(scores, Promise(THRESHOLD, 0.08), 100, 0)  # 0.095 is the bound of 60 people
    assert found["fmr"]["ci95"][1] < 0.08 < found["fmr"]["upper95"]
    assert found["verdict"] == "undecided"
    assert "lies below it, but the bound without assumptions on who resembles whom is 0.095" in found["sentence"]


def test_measure_promise_does_not_depend_on_the_order_of_pairs():
    similarity, same, left, right, labels = six_people()
    order = np.random.default_rng(0).permutation(len(same))
    shuffled = scores_of_pairs(similarity[order], same[order], right[order], left[order], labels)
    promise = Promise(0.55, 0.1)
    assert measure_promise(shuffled, promise, 50, 0) == measure_promise(scores_of_pairs(*six_people()), promise, 50, 0)


def test_measure_promise_does_not_depend_on_the_names_of_people():
    similarity, same, left, right, labels = six_people()
    renamed = scores_of_pairs(similarity, same, left, right, np.array([40, 10, 30, 20, 60, 50])[labels])
    before, after = (
        measure_promise(scores, Promise(0.55, 0.1), 1000, 0) for scores in (scores_of_pairs(*six_people()), renamed)
    )
    for kind in ("fmr", "fnmr"):
        assert after[kind]["value"] == before[kind]["value"]
        assert after[kind]["ci95"] == pytest.approx(before[kind]["ci95"], abs=0.02)  # the draws are others
    assert after["independent_comparisons"] == before["independent_comparisons"]


@pytest.mark.parametrize("keep", [10**6, 30])
def test_comparisons_of_all_pairs_are_half_the_people(keep):
    x = np.random.default_rng(0).normal(size=(15, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = score_all_pairs(x, np.arange(15) % 5, keep).scores
    assert scores.complete == (keep == 10**6)
    assert comparisons_of(scores) == 2.5


def test_measure_promise_refuses_a_threshold_below_the_scores_that_were_kept():
    x = np.random.default_rng(0).normal(size=(30, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = score_all_pairs(x, np.arange(30) % 10, 40).scores
    with pytest.raises(DataError, match=r"more than 40 of 405 impostor pairs reach .* FMR exceeds 0\.099.* --far 0\.4"):
        measure_promise(scores, Promise(-0.5, 0.1), 10, 0)


WORLDS = {
    "independent pairs": independent(0.02),
    "rare independent pairs": independent(0.001),
    "people who match everybody": with_people_who_match_everybody(0.04),
    "many of them": with_people_who_match_everybody(0.15),
}


def covered(world):
    """How often the bounds and intervals of rates hold the truth."""
    often = dict.fromkeys(["upper", "lower", "interval", "fnmr upper", "fnmr interval"], 0.0)
    for trial in range(TRIALS):
        scores, fmr = scores_in(world, np.random.default_rng((1, trial)), PEOPLE, FNMR)
        found = rates_at(scores, {"x": THRESHOLD}, PEOPLE / 2, 60, trial)["x"]
        often["upper"] += (found["fmr"].upper >= fmr) / TRIALS
        often["lower"] += (found["fmr"].lower <= fmr) / TRIALS
        often["interval"] += (found["fmr"].interval[0] <= fmr <= found["fmr"].interval[1]) / TRIALS
        often["fnmr upper"] += (found["fnmr"].upper >= FNMR) / TRIALS
        often["fnmr interval"] += (found["fnmr"].interval[0] <= FNMR <= found["fnmr"].interval[1]) / TRIALS
    return often


@pytest.mark.parametrize("name", WORLDS)
def test_rates_at_covers_the_truth_as_often_as_it_says(name):
    for what, share in covered(WORLDS[name]).items():
        assert share >= LEAST, what


def test_rates_at_bounds_hold_where_the_interval_does_not_know_who_is_missing():
    # False matches of single pairs hide that people who match everybody may be missing.
    often = covered(both(independent(0.002), with_people_who_match_everybody(0.035)))
    assert often["upper"] >= LEAST
    assert often["lower"] >= LEAST
    assert often["interval"] < LEAST
