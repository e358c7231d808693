import numpy as np
import pytest
from scipy import special, stats

from vplface.evaluation.student import incomplete_beta, t_interval, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19, 50, 1000, 2.5])
@pytest.mark.parametrize("probability", [0.001, 0.2, 0.5, 0.6, 0.9, 0.975, 0.9995])
def test_quantiles_are_those_of_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("a", [0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("b", [0.5, 2.0, 17.0])
@pytest.mark.parametrize("x", [0.0, 1e-9, 0.1, 0.5, 0.93, 1.0])
def test_incomplete_beta_is_that_of_scipy(x, a, b):
    assert incomplete_beta(x, 1 - x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-12, abs=1e-300)


def test_interval_by_hand_and_by_scipy():
    low, high = t_interval([1.0, 2.0, 3.0])  # mean 2, s = 1, t(.975, 2) = 4.302653
    assert (low, high) == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)), abs=1e-6)
    values = np.random.default_rng(0).normal(size=6)
    assert t_interval(values) == pytest.approx(stats.t.interval(0.95, 5, values.mean(), stats.sem(values)))
    assert t_interval([0.25, 0.25]) == (0.25, 0.25)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0), (float("nan"), 1)])
def test_what_has_no_quantile_is_refused(probability, freedom):
    with pytest.raises(ValueError, match="need a probability"):
        t_quantile(probability, freedom)
    with pytest.raises(ValueError, match="at least two"):
        t_interval([1.0])
