"""Claims: the rule of three by people, by hand, against a linear program, and in a world where it is sharp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vplface.evaluation.claims import Needed, bound_without_matches, independent_comparisons, needed, supported


def pairs(people):
    return st.lists(st.tuples(st.integers(0, people), st.integers(0, people)).filter(lambda ab: ab[0] != ab[1]))


def test_needed_gives_the_people_of_the_rule_of_three_and_the_246_that_assume_independent_pairs():
    # ln 0.05 / ln 0.9999 = 29,955.8 comparisons; 246 · 245 / 2 = 30,135 pairs, and 245 people would give 29,890
    assert needed(1e-4) == Needed(1e-4, 29_956, 59_912, 246, 30_135)
    # ln 0.05 / ln 0.95 = 58.4
    assert needed(0.05) == Needed(0.05, 59, 117, 12, 66)


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1, 2.0])
def test_needed_refuses_a_rate_that_nobody_could_claim(far):
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed(far)


@given(st.floats(1e-7, 0.5))
def test_needed_is_the_smallest_number_whose_bound_keeps_the_rate(far):
    people = needed(far).people
    assert bound_without_matches(people / 2) <= far * (1 + 1e-9)
    assert bound_without_matches((people - 1) / 2) > far * (1 - 1e-9) or people <= 1


def test_bound_without_matches_is_about_three_over_the_comparisons():
    assert bound_without_matches(1) == pytest.approx(0.95)
    assert bound_without_matches(10) == pytest.approx(1 - 0.05**0.1)
    assert bound_without_matches(1e6) == pytest.approx(2.995732e-6, rel=1e-5)
    assert bound_without_matches(0) == 1


def test_bound_without_matches_is_sharp_where_some_people_match_everybody():
    # Of n people nobody matches everybody with probability (1 − q)ⁿ = (1 − p)^(n/2): 0.05 at the bound.
    people = 40
    rate = bound_without_matches(people / 2)
    share = 1 - np.sqrt(1 - rate)
    assert (1 - share) ** people == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        ([], 0),
        ([[0, 1]], 1),
        ([[0, 1], [1, 0], [0, 1]], 1),  # one pair of people, three times
        ([[0, 1], [1, 2], [2, 0]], 1.5),  # a half of each
        ([[0, 1], [0, 2], [0, 3], [0, 4]], 1),  # one person is on all
        ([[0, 1], [1, 2], [2, 3]], 2),
        ([[0, 1], [2, 3], [4, 5]], 3),
        ([[a, b] for a in range(5) for b in range(a)], 2.5),
    ],
)
def test_independent_comparisons_of_small_graphs(people, expected):
    assert independent_comparisons(np.array(people, int).reshape(-1, 2)) == expected


@settings(max_examples=40, deadline=None)
@given(pairs(7).filter(bool))
def test_independent_comparisons_agrees_with_a_linear_program(people):
    on = np.zeros((8, len(people)))
    for number, pair in enumerate(people):
        on[list(pair), number] = 1
    best = linprog(-np.ones(len(people)), A_ub=on, b_ub=np.ones(8), bounds=(0, 1))
    assert independent_comparisons(np.array(people)) == pytest.approx(-best.fun)


@settings(max_examples=40, deadline=None)
@given(pairs(7).filter(bool), st.permutations(range(8)), st.randoms())
def test_independent_comparisons_does_not_depend_on_names_and_order(people, names, random):
    renamed = [(names[a], names[b]) if random.random() < 0.5 else (names[b], names[a]) for a, b in people]
    random.shuffle(renamed)
    assert independent_comparisons(np.array(renamed)) == independent_comparisons(np.array(people))


def test_supported_names_the_smallest_rate_and_the_people_that_others_need():
    assert supported(100, [1e-2, 0.1, 1e-3, 1.0]) == {
        "independent_comparisons": 100,
        "smallest_far": pytest.approx(1 - 0.05**0.01),  # 0.0295
        "people_needed": {"0.01": 597, "0.001": 5_989},
    }
