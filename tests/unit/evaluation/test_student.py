import numpy as np
import pytest
from scipy import stats

from vplface.evaluation.student import t_interval


def test_t_interval_agrees_with_hand_computation_and_scipy_stats():
    low, high = t_interval([1.0, 2.0, 3.0])  # mean 2, s = 1, t(.975, 2) = 4.302653
    assert (low, high) == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)), abs=1e-6)
    values = np.random.default_rng(0).normal(size=6)
    assert t_interval(values) == pytest.approx(stats.t.interval(0.95, 5, values.mean(), stats.sem(values)))
    assert t_interval([0.25, 0.25]) == (0.25, 0.25)


def test_t_interval_refuses_a_single_value():
    with pytest.raises(ValueError, match="at least two"):
        t_interval([1.0])
