"""McNemar's exact test against scipy's binomial test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vplface.evaluation.mcnemar import mcnemar


@given(b=st.integers(0, 3000), c=st.integers(0, 3000))
def test_mcnemar_agrees_with_scipy_binomtest(b, c):
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_matches_values_computed_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 3) == pytest.approx(2 * (1 + 4) / 16)
    assert mcnemar(4, 4) == 1.0
    assert 0.0 <= mcnemar(0, 10**6) < 1e-300
    assert mcnemar(500_000, 502_000) == pytest.approx(binomtest(500_000, 1_002_000).pvalue, rel=1e-6)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)
