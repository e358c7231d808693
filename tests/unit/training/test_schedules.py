from itertools import pairwise

import pytest

from vplface.training.schedules import LearningRate


def test_LearningRate_factor_rises_linearly_to_one_in_warmup():
    rate = LearningRate("constant", 10, warmup=4)
    assert [rate.factor(t) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_LearningRate_cosine_matches_hand_computed_values():
    rate = LearningRate("cosine", 8)
    assert rate.factor(0) == 1.0
    assert rate.factor(2) == pytest.approx(0.8535533905932737)
    assert rate.factor(4) == pytest.approx(0.5)
    assert rate.factor(8) == pytest.approx(0.0)


def test_LearningRate_polynomial_matches_hand_computed_values():
    rate = LearningRate("polynomial", 12, warmup=2, power=2.0)
    assert rate.factor(2) == 1.0
    assert rate.factor(7) == pytest.approx(0.25)
    assert rate.factor(12) == 0.0


def test_LearningRate_step_matches_hand_computed_values():
    rate = LearningRate("step", 100, milestones=(10, 20), gamma=0.1)
    assert [rate.factor(t) for t in (9, 10, 19, 20, 99)] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_LearningRate_factor_never_rises_after_warmup(name):
    rate = LearningRate(name, 50, warmup=5)
    factors = [rate.factor(t) for t in range(5, 50)]
    assert all(a >= b for a, b in pairwise(factors))
