import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.prototypes import covering, expected_coverage


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=20),
    st.integers(1, 64),
    st.floats(0.01, 0.95),
)
def test_covering_gives_the_smallest_delta_t_that_reaches_the_target(sizes, batch, target):
    sizes = np.array(sizes)
    first = next(delta_t for delta_t in range(1, 10**6) if expected_coverage(sizes, batch, delta_t) >= target)
    assert covering(sizes, batch, target) == first


def test_covering_of_equal_classes_matches_a_hand_computed_value():
    # 1 − exp(−512·Δt/1000000) ≥ 1/2 from 1000000·ln 2/512 = 1353.8 on
    assert covering(np.full(1_000_000, 10), 512, 0.5) == 1354


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_covering_refuses_a_target_out_of_range(target):
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        covering(np.ones(3), 2, target)


def test_covering_refuses_a_target_out_of_reach():
    with pytest.raises(ValueError, match=r"only 75\.0% of the classes have pictures"):
        covering(np.array([1, 2, 0, 5]), 2, 0.8)
