import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vplface.prototypes import Variational, coverage, expected_coverage, inject, remember


def test_inject_matches_hand_computed_values():
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    memory = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    timer = torch.tensor([3, 0, 1], dtype=torch.int32)
    to_the_letter = inject(v, memory, timer, lam=0.25, renormalise=False)
    torch.testing.assert_close(
        to_the_letter, torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.60, 0.20]], dtype=torch.float64)
    )
    root = math.sqrt(0.75**2 + 0.25**2)
    unit = inject(v, memory, timer, lam=0.25)
    torch.testing.assert_close(unit[0], torch.tensor([0.75 / root, 0.25 / root], dtype=torch.float64))
    torch.testing.assert_close(unit[1], v[1])


@pytest.mark.parametrize(("lam", "expected"), [(0.0, [1.0, 0.0]), (1.0, [0.0, 1.0])])
def test_inject_gives_the_prototype_at_lam_zero_and_the_memory_at_one(lam, expected):
    u = inject(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([1], dtype=torch.int32), lam)
    torch.testing.assert_close(u, torch.tensor([expected]))


def test_inject_treats_the_memory_as_a_constant():
    v = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    memory = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    inject(v, memory, torch.tensor([1, 0, 2, 0], dtype=torch.int32), 0.3).sum().backward()
    assert memory.grad is None
    assert v.grad.isfinite().all()


@given(
    classes=st.integers(1, 12),
    delta_t=st.integers(1, 5),
    batches=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), min_size=1, max_size=12),
)
def test_remember_matches_a_naive_simulation(classes, delta_t, batches):
    memory, timer = torch.zeros(classes, 2), torch.zeros(classes, dtype=torch.int32)
    naive_memory, naive_timer = {c: [0.0, 0.0] for c in range(classes)}, dict.fromkeys(range(classes), 0)
    for step, batch in enumerate(batches):
        labels = [label % classes for label in batch]
        features = [[float(step), float(row)] for row in range(len(labels))]
        for c in range(classes):
            if c not in labels:
                naive_timer[c] = max(naive_timer[c] - 1, 0)
        for feature, label in zip(features, labels, strict=True):
            naive_memory[label], naive_timer[label] = feature, delta_t
        remember(memory, timer, torch.tensor(features), torch.tensor(labels), delta_t)
        assert timer.tolist() == [naive_timer[c] for c in range(classes)]
        assert memory.tolist() == [naive_memory[c] for c in range(classes)]


@pytest.mark.parametrize("values", [{"lam": -0.1}, {"lam": 1.1}, {"lam": float("nan")}, {"delta_t": 0}, {"start": -1}])
def test_Variational_refuses_values_out_of_range(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Variational(**values)


def test_coverage_counts_living_memories():
    assert coverage(None) == 0.0
    assert coverage(torch.tensor([0, 1, 5, 0], dtype=torch.int32)) == 0.5


def test_expected_coverage_matches_a_hand_computed_value_and_a_simulation():
    assert expected_coverage(np.full(1000, 10), batch_size=100, delta_t=10) == pytest.approx(1 - math.exp(-1))
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, size=200)
    owner = np.repeat(np.arange(200), sizes)
    seen = [len(np.unique(rng.choice(owner, size=32 * 20))) / 200 for _ in range(200)]
    assert expected_coverage(sizes, batch_size=32, delta_t=20) == pytest.approx(np.mean(seen), abs=0.01)
