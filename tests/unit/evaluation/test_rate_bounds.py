"""Bounds of rates against the exact binomial, and their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vplface.evaluation.rate_bounds import BoundedRate


def spread(rate, deviation):
    """Replicates of a known variance."""
    return rate + deviation * np.array([-1.0, 1.0] * 50)


@pytest.mark.parametrize(("errors", "pairs"), [(5, 100), (1, 20), (30, 60)])
def test_BoundedRate_of_independent_pairs_is_the_exact_binomial_interval(errors, pairs):
    rate = errors / pairs
    found = BoundedRate.of(errors, pairs, spread(rate, np.sqrt(rate * (1 - rate) / pairs)), pairs)
    exact = binomtest(errors, pairs)
    assert found.interval == pytest.approx(exact.proportion_ci(0.95, "exact"))
    low, high = exact.proportion_ci(0.90, "exact")  # each end is missed with a probability of 0.05
    assert (found.lower, found.upper) == pytest.approx((low, high))


def test_BoundedRate_of_correlated_pairs_is_that_of_fewer_independent_ones():
    # Four times the binomial variance: 25 comparisons with 5 errors in place of 100 with 20.
    found = BoundedRate.of(20, 100, spread(0.2, np.sqrt(4 * 0.2 * 0.8 / 100)), 50)
    assert found.interval == pytest.approx(binomtest(5, 25).proportion_ci(0.95, "exact"))
    assert (found.errors, found.pairs) == (20, 100)


def test_BoundedRate_without_errors_is_the_rule_of_three():
    found = BoundedRate.of(0, 5000, np.zeros(100), 50)
    assert found.interval == (0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert (found.lower, found.upper) == (0, pytest.approx(1 - 0.05 ** (1 / 50)))
    everything = BoundedRate.of(5000, 5000, np.ones(100), 50)
    assert everything.interval == (pytest.approx(0.025 ** (1 / 50)), 1)
    assert (everything.lower, everything.upper) == (pytest.approx(0.05 ** (1 / 50)), 1)


def test_BoundedRate_upper_is_not_lowered_by_an_error():
    none = BoundedRate.of(0, 10**6, np.zeros(100), 700)
    one = BoundedRate.of(1, 10**6, spread(1e-6, np.sqrt(3) * 1e-6), 700)
    assert one.interval[1] < none.interval[1]
    assert one.upper == none.upper


@given(
    st.integers(1, 1000).flatmap(lambda pairs: st.tuples(st.integers(0, pairs), st.just(pairs))),
    st.floats(0, 0.3),
    st.floats(0.5, 500),
)
def test_BoundedRate_encloses_its_value(counts, deviation, comparisons):
    errors, pairs = counts
    found = BoundedRate.of(errors, pairs, spread(errors / pairs, deviation), comparisons)
    assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1
    assert found.lower <= found.value <= found.upper


def test_BoundedRate_needs_pairs_and_resamples():
    assert BoundedRate.of(0, 0, np.full(9, np.nan), 5) is None
    with pytest.raises(ValueError, match="resamples"):
        BoundedRate.of(0, 10, np.full(9, np.nan), 5)


def test_BoundedRate_json_has_the_documented_keys():
    found = BoundedRate.of(5, 100, spread(0.05, 0.02), 100).to_json()
    assert list(found) == ["value", "ci95", "lower95", "upper95", "errors", "pairs"]
