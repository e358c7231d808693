"""Calibration and its cost against hand-computed answers, scikit-learn, and simulations with a known truth."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from vplface.errors import DataError
from vplface.evaluation.all_pairs import BINS
from vplface.evaluation.calibrate import _figures, _interval_of_share, _Judged, calibrate
from vplface.evaluation.calibration import Calibration, fit_calibration, probability
from vplface.evaluation.llr_cost import cllr, min_cllr, monotone_llr
from vplface.evaluation.rate_bounds import BoundedRate

EDGES = np.linspace(-1.0, 1.0, BINS + 1)
CENTRE = (EDGES[:-1] + EDGES[1:]) / 2
COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12).filter(
    lambda rows: sum(g for g, _ in rows) > 0 and sum(i for _, i in rows) > 0
)


def gaussian(count: int, genuine: float = 0.5, spread: float = 0.15):
    """Counts of genuine N(genuine, spread²) and impostor N(0, spread²) similarities."""
    both = [np.diff(norm.cdf(EDGES, mean, spread)) for mean in (genuine, 0.0)]
    return [np.rint(count * each).astype(np.int64) for each in both]


def test_cllr_of_a_ratio_that_says_nothing_is_one_bit():
    assert cllr(np.zeros(3), np.array([1.0, 2.0, 0.0]), np.array([0.0, 1.0, 5.0])) == pytest.approx(1.0)


def test_cllr_by_hand():
    # genuine at LLR ln 3 and −ln 3: log2(4/3) and log2(4); impostor at −ln 3: log2(4/3)
    llr = np.log([1 / 3, 3.0])
    expected = 0.5 * (0.5 * (math.log2(4 / 3) + 2.0)) + 0.5 * math.log2(4 / 3)
    assert cllr(llr, np.array([1.0, 1.0]), np.array([4.0, 0.0])) == pytest.approx(expected)


def test_cllr_counts_no_cost_where_an_infinite_ratio_is_right():
    assert cllr(np.array([-np.inf, np.inf]), np.array([0.0, 2.0]), np.array([3.0, 0.0])) == 0.0
    assert cllr(np.array([-np.inf, np.inf]), np.array([1.0, 2.0]), np.array([3.0, 0.0])) == np.inf


def test_monotone_llr_pools_adjacent_violators_by_hand():
    # shares: genuine .25 .5 0 .25, impostor .5 .25 .25 0; bins 1 and 2 violate and are pooled to .5 : .5
    genuine, impostor = np.array([1.0, 2.0, 0.0, 1.0]), np.array([2.0, 1.0, 1.0, 0.0])
    assert monotone_llr(genuine, impostor) == pytest.approx([math.log(0.5), 0.0, 0.0, np.inf])


def test_min_cllr_is_0_for_separated_and_1_for_equal_scores():
    assert min_cllr(np.array([0.0, 0.0, 3.0]), np.array([5.0, 1.0, 0.0])) == 0.0
    assert min_cllr(np.array([2.0, 4.0]), np.array([5.0, 10.0])) == pytest.approx(1.0)
    assert math.isnan(min_cllr(np.zeros(2), np.ones(2)))


@given(COUNTS)
def test_monotone_llr_is_that_of_scikit_learn(rows):
    genuine, impostor = np.array(rows, np.float64).T
    both = genuine / genuine.sum(), impostor / impostor.sum()
    weight = both[0] + both[1]
    filled = weight > 0
    place = np.arange(len(rows))[filled]
    share = (
        IsotonicRegression().fit(place, (both[0] / np.where(filled, weight, 1))[filled], weight[filled]).predict(place)
    )
    mine = 1 / (1 + np.exp(-monotone_llr(genuine, impostor)[filled]))
    assert mine == pytest.approx(share, abs=1e-9)


@given(COUNTS, st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_no_monotone_map_costs_less_than_min_cllr(rows, steps):
    genuine, impostor = np.array(rows, np.float64).T
    llr = monotone_llr(genuine, impostor)
    assert (np.diff(llr[np.isfinite(llr)]) >= -1e-12).all()
    assert min_cllr(genuine, impostor) <= cllr(np.sort(steps[: len(rows)]), genuine, impostor) + 1e-12


def test_logistic_recovers_the_known_ratio_of_two_gaussians():
    genuine, impostor = gaussian(1_000_000)
    fitted = fit_calibration("logistic", EDGES, genuine, impostor, 10**9, 10**9)
    assert fitted.values[0] == pytest.approx(0.5 / 0.15**2, rel=1e-3)
    assert fitted.llr(np.array([0.25])) == pytest.approx([0.0], abs=5e-3)


def test_logistic_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.normal(0.4, 0.2, 400), rng.normal(0.1, 0.15, 3000)]).clip(-0.99, 0.99)
    same = np.arange(3400) < 400
    counts = [np.histogram(score[each], EDGES)[0] for each in (same, ~same)]
    fitted = fit_calibration("logistic", EDGES, *counts, 10**6, 10**6)
    centres = CENTRE[np.minimum(((score + 1) * BINS / 2).astype(int), BINS - 1)]
    weight = np.where(same, 1 / 400, 1 / 3000) * 1000
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(centres[:, None], same, weight)
    assert fitted.values == pytest.approx((float(other.coef_[0, 0]), float(other.intercept_[0])), rel=1e-4)


def test_isotonic_approaches_the_known_ratio():
    genuine, impostor = gaussian(10_000_000)
    fitted = fit_calibration("isotonic", EDGES, genuine, impostor, 10**9, 10**9)
    scores = np.linspace(0.1, 0.4, 7)
    assert fitted.llr(scores) == pytest.approx(0.5 * (scores - 0.25) / 0.15**2, abs=0.1)


def test_calibrations_say_no_more_than_their_people_can_show():
    genuine, impostor = gaussian(10_000)
    for method in ("logistic", "isotonic"):
        fitted = fit_calibration(method, EDGES, genuine, impostor, 100, 400)
        # 100 people without a false non-match: a rate of 1 − .05^(1/100); 200 independent comparisons
        assert fitted.lowest == pytest.approx(math.log(1 - 0.05**0.01))
        assert fitted.highest == pytest.approx(-math.log(1 - 0.05 ** (1 / 200)))
        assert fitted.llr(np.array([-1.0, 1.0])).tolist() == [fitted.lowest, fitted.highest]


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_calibrations_of_separated_scores_are_bounded_by_their_people(method):
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    genuine[1600], impostor[1200] = 50, 500
    fitted = fit_calibration(method, EDGES, genuine, impostor, 50, 100)
    assert fitted.llr(np.array([0.2, 0.61])).tolist() == [fitted.lowest, fitted.highest]


def test_logistic_of_scores_that_mislead_says_nothing():
    genuine, impostor = gaussian(10_000, genuine=-0.3)
    fitted = fit_calibration("logistic", EDGES, genuine, impostor, 100, 200)
    assert fitted.llr(np.array([-0.9, 0.9])) == pytest.approx([0.0, 0.0], abs=1e-3)


@given(st.sampled_from(["logistic", "isotonic"]), st.integers(0, 2**32))
@settings(max_examples=20)
def test_calibrations_are_monotone_and_survive_a_file(method, seed):
    rng = np.random.default_rng(seed)
    counts = [np.histogram(rng.normal(mean, 0.2, 300), EDGES)[0] for mean in (0.3, 0.1)]
    fitted = fit_calibration(method, EDGES, *counts, 40, 80)
    llr = fitted.llr(np.linspace(-1, 1, 400))
    assert (np.diff(llr) >= 0).all()
    again = Calibration.from_json(json.loads(json.dumps(fitted.to_json())))
    assert np.array_equal(again.llr(CENTRE), fitted.llr(CENTRE))


def test_probability_is_bayes_rule():
    # prior odds 1 : 9, likelihood ratio 3: odds 1 : 3
    assert probability(np.array([math.log(3.0)]), 0.1) == pytest.approx([0.25])
    assert probability(np.array([0.0, 800.0, -800.0]), 0.5).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "platt"},
        {"values": [1.0]},
        {"values": [-1.0, 0.0]},
        {"values": ["a", 0.0]},
        {"lowest": 1.0},
        {"highest": None},
        {"values": [float("nan"), 0.0]},
        {"similarity": [0.1]},
    ],
)
def test_Calibration_from_json_refuses_other_values(change):
    good = {"method": "logistic", "similarity": [], "values": [9.0, -3.0], "lowest": -3.0, "highest": 3.0, "people": 9}
    assert Calibration.from_json(good).people == 9
    with pytest.raises(DataError, match="not a calibration"):
        Calibration.from_json({**good, **change})
    with pytest.raises(DataError, match="not a calibration"):
        Calibration.from_json([])


def crowd(people: int, seed: int, noise: float = 0.8, pictures: int = 3):
    """Unit embeddings: a direction of each person, with noise in each picture."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), pictures)
    x = rng.standard_normal((people, 16))[person] + noise * rng.standard_normal((people * pictures, 16))
    return x / np.linalg.norm(x, axis=1, keepdims=True), person


def test_calibrate_judges_on_people_apart_from_those_of_the_fit():
    unit, person = crowd(60, 0)
    found = calibrate("isotonic", unit, person, 50, 0)
    assert (found["people"], found["judged_people"]) == (30, 30)
    assert (found["genuine"], found["impostors"]) == (30 * 3, 90 * 89 // 2 - 90)
    assert sum(part["genuine"] for part in found["curve"]) == found["genuine"]
    assert sum(part["impostors"] for part in found["curve"]) == found["impostors"]
    assert 0 < found["min_cllr"] <= found["cllr"]["value"] < 1
    low, high = found["cllr"]["ci95"]
    assert low < found["cllr"]["value"] < high


def test_calibrate_depends_neither_on_the_order_of_pictures_nor_on_their_number():
    unit, person = crowd(50, 1)
    order = np.random.default_rng(0).permutation(len(person))
    first, second = calibrate("logistic", unit, person, 20, 0), calibrate("logistic", unit[order], person[order], 20, 0)
    assert first["fit"]["values"] == pytest.approx(second["fit"]["values"], rel=1e-4)
    assert first["cllr"]["value"] == pytest.approx(second["cllr"]["value"], rel=1e-4)


def test_calibrate_refuses_too_few_people():
    unit, person = crowd(9, 0)
    with pytest.raises(DataError, match=r"needs 10 people with several pictures.*here are 9"):
        calibrate("isotonic", unit, person, 0, 0)


def test_calibrate_draws_impostor_pairs_where_there_are_many(monkeypatch):
    unit, person = crowd(120, 2)
    all_pairs = calibrate("logistic", unit, person, 0, 0)
    monkeypatch.setattr("vplface.evaluation.calibrate._MOST_IMPOSTORS", 4_000)
    drawn = calibrate("logistic", unit, person, 0, 0)
    assert drawn["impostors"] == 4_000
    assert drawn["fit"] == all_pairs["fit"]
    assert drawn["cllr"]["value"] == pytest.approx(all_pairs["cllr"]["value"], abs=0.02)


def test_the_interval_of_a_share_is_that_of_the_two_rates():
    def rate(value, low, high):
        return BoundedRate(value, 1, 2, (low, high), low, high)

    assert _interval_of_share(rate(0.0, 0.0, 0.1), rate(0.5, 0.3, 0.7)) == (0.0, pytest.approx(0.1 / 0.4))
    assert _interval_of_share(rate(0.5, 0.3, 0.7), rate(0.0, 0.0, 0.1)) == (pytest.approx(0.3 / 0.4), 1.0)
    # the logarithms of both rates lie within ln 2: the ratio within √2 · ln 2 of 1
    low, high = _interval_of_share(rate(0.2, 0.1, 0.4), rate(0.2, 0.1, 0.4))
    assert (low, high) == (pytest.approx(1 / (1 + 2 ** math.sqrt(2))), pytest.approx(1 / (1 + 2 ** -math.sqrt(2))))
    assert _interval_of_share(None, rate(0.2, 0.1, 0.4)) is None


PEOPLE, TRIALS = 60, 120
STORED = Calibration("logistic", (), (10.0, -4.0), -4.0, 4.0, PEOPLE)


@pytest.mark.slow
@pytest.mark.parametrize("resemblance", [0.0, 0.05])
def test_the_intervals_of_cost_and_curve_hold_the_truth_as_often_as_they_say(resemblance):
    """Similarities are normal; with resemblance each person adds a share to all impostor pairs.

    The truth is computed from the distributions: the share of genuine pairs in each step, and the cost.
    """
    left, right = np.triu_indices(PEOPLE, 1)
    each = np.arange(PEOPLE)
    of_people = [np.stack([each, each], 1), np.stack([left, right], 1)]
    spread = math.hypot(0.15, resemblance * math.sqrt(2))
    mass = [np.diff(norm.cdf(EDGES, mean, sigma)) for mean, sigma in ((0.6, 0.15), (0.2, spread))]
    true_cost, llr = cllr(STORED.llr(CENTRE), *mass), STORED.llr(CENTRE)
    held, seen = Counter(), Counter()
    for trial in range(TRIALS):
        rng = np.random.default_rng((7, trial))
        own = rng.normal(0, resemblance, PEOPLE)
        similarity = rng.normal(0.6, 0.15, PEOPLE), rng.normal(0.2, 0.15, len(left)) + own[left] + own[right]
        bins = [np.clip((values + 1) * BINS / 2, 0, BINS - 1).astype(np.int64) for values in similarity]
        found = _figures(STORED, _Judged(PEOPLE, bins, of_people), 100, trial)
        low, high = found["cllr"]["ci95"]
        held["cost"] += low <= true_cost <= high
        seen["cost"] += 1
        for part in found["curve"]:
            inside = (llr >= part["llr"][0]) & (llr < part["llr"][1])
            shares = [float(of[inside].sum() / of.sum()) for of in mass]
            low, high = part["observed"]["ci95"]
            held[part["llr"][0]] += low <= shares[0] / sum(shares) <= high
            seen[part["llr"][0]] += 1
    assert len(seen) >= 8
    for place, count in seen.items():
        assert held[place] / count >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / count), (place, held[place], count)
