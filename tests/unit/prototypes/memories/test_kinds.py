"""Each kind of memory by hand, and the statistics of what it injects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive
from torch.nn.functional import normalize

from vplface.prototypes import Draw, Variational, coverage
from vplface.prototypes.memories import (
    BorrowedSpread,
    Gaussian,
    LastFeature,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    VonMisesFisher,
    spread,
)
from vplface.prototypes.memories.von_mises_fisher import concentration, cosines

CPU = torch.device("cpu")
SPREAD = [Gaussian, VonMisesFisher, BorrowedSpread]


def alone(part):
    return part


def empty(kind, classes, dim, seed=0):
    return kind.empty(classes, dim, torch.float64, CPU, seed)


def remember(kind, state, features, rows, delta_t=9):
    features = torch.as_tensor(features, dtype=torch.float64)
    kind.remember(state, features, torch.as_tensor(rows), delta_t, alone)


def injected(kind, state, step=0, seed=0):
    read = kind.reader(state, Draw(range(len(state["timer"])), seed, step))
    return state["memory"] if read is None else read(state["memory"], slice(None))


def angle(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_LastFeature_remembers_the_last_feature_and_is_the_default():
    kind = LastFeature()
    state = empty(kind, 3, 2)
    remember(kind, state, [angle(10), angle(20)], [2, -1])
    assert state["memory"].tolist() == [[0, 0], [0, 0], angle(10)]
    assert state["timer"].tolist() == [0, 0, 9]
    assert kind.reader(state, Draw(range(3), 0, 0)) is None
    assert Variational().memory == kind


def test_RunningMean_matches_hand_computed_values():
    kind = RunningMean(0.5)
    state = empty(kind, 3, 2)
    remember(kind, state, [angle(0), angle(40)], [0, 1], delta_t=2)
    assert injected(kind, state).tolist() == [angle(0), pytest.approx(angle(40)), [0, 0]]
    remember(kind, state, [angle(60)], [0], delta_t=2)  # halfway between unit vectors of 0° and 60°
    assert injected(kind, state)[0].tolist() == pytest.approx(angle(30))
    remember(kind, state, [angle(90)], [2], delta_t=2)
    assert state["timer"].tolist() == [1, 0, 2]
    remember(kind, state, [angle(90), angle(70)], [0, 1], delta_t=2)  # 0 in its last step, 1 expired and restarted
    assert injected(kind, state)[0].tolist() == pytest.approx(angle(60))
    assert injected(kind, state)[1].tolist() == pytest.approx(angle(70))


def test_RunningMean_without_momentum_equals_LastFeature():
    g = torch.Generator().manual_seed(0)
    states = [empty(kind, 5, 4) for kind in (RunningMean(0.0), LastFeature())]
    for _ in range(12):
        rows = torch.randperm(5, generator=g)[:2]
        x = normalize(torch.randn(2, 4, generator=g, dtype=torch.float64), dim=1)
        for kind, state in zip((RunningMean(0.0), LastFeature()), states, strict=True):
            remember(kind, state, x, rows, delta_t=3)
    torch.testing.assert_close(*(state["memory"] for state in states))
    assert torch.equal(*(state["timer"] for state in states))


def test_SeveralFeatures_remember_overwrites_the_oldest_slot():
    kind = SeveralFeatures(2)
    state = empty(kind, 3, 2)
    for degrees in (10, 20, 30):
        remember(kind, state, [angle(degrees)], [1], delta_t=3)
    assert state["timer"].tolist() == [[0, 0], [3, 2], [0, 0]]
    assert state["memory"][1].tolist() == [angle(30), angle(20)]
    remember(kind, state, [angle(0)], [0], delta_t=3)
    assert state["timer"].tolist() == [[3, 0], [2, 1], [0, 0]]
    remember(kind, state, [angle(40)], [1], delta_t=3)  # takes the dead slot, not the living one
    assert state["memory"][1].tolist() == [angle(30), angle(40)]
    assert state["timer"].tolist() == [[2, 0], [1, 3], [0, 0]]
    assert coverage(state["timer"]) == pytest.approx(2 / 3)


def test_SeveralFeatures_reader_draws_living_slots_uniformly():
    kind = SeveralFeatures(4)
    state = empty(kind, 3000, 2)
    state["memory"][:] = torch.arange(4.0).reshape(1, 4, 1)
    state["timer"][:] = torch.tensor([2, 0, 1, 7], dtype=torch.int32)
    drawn = injected(kind, state)[:, 0]
    assert set(drawn.tolist()) == {0.0, 2.0, 3.0}
    counts = torch.bincount(drawn.long(), minlength=4)[[0, 2, 3]].double()
    assert ((counts - 1000).square() / 1000).sum() < 13.8  # χ² of two degrees of freedom, p = .001
    assert not torch.equal(drawn, injected(kind, state, step=1)[:, 0])


def test_SeveralFeatures_with_one_slot_equals_LastFeature():
    kind, last = SeveralFeatures(1), LastFeature()
    states = empty(kind, 4, 2), empty(last, 4, 2)
    for degrees, row in ((10, 0), (20, 3), (30, 0)):
        for each, state in zip((kind, last), states, strict=True):
            remember(each, state, [angle(degrees)], [row], delta_t=2)
    assert torch.equal(injected(kind, states[0]), injected(last, states[1]))
    assert torch.equal(states[0]["timer"][:, 0], states[1]["timer"])


@given(st.integers(2, 50), st.integers(0, 5))
def test_ShuffledMemory_home_is_a_permutation_without_fixed_points(classes, seed):
    everyone = torch.arange(classes)
    home = ShuffledMemory().home(everyone, classes, seed)
    assert (home != everyone).all()
    assert home.sort().values.tolist() == everyone.tolist()


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0.1, 50.0))
def test_spread_follow_matches_hand_computed_mean_and_variance(heights, prior):
    """While the mean weighs all features alike, μ, R, n and the shrunk variance are the textbook's."""
    state = empty(Gaussian(bank=1), 2, 2)
    x = np.array([[h, math.sqrt(1 - h * h)] for h in heights])
    residuals = []
    for number, feature in enumerate(x):
        found = spread.follow(state, torch.tensor(feature).unsqueeze(0), torch.tensor([0]), 99, 0.95)
        if number:
            expected = (feature - x[:number].mean(0)) / math.sqrt(1 + 1 / number)
            np.testing.assert_allclose(found[0], [*expected, 1.0], atol=1e-12)
            residuals.append(expected @ expected)
        else:
            assert found[0].tolist() == [0, 0, 0]
        spread.pool_lengths(state, found, alone)
    n, mean = len(x), x.mean(0)
    assert state["memory_count"].tolist() == pytest.approx([n, 0])
    scatter = ((x - mean) ** 2).sum()
    assert state["memory_variance"].tolist() == pytest.approx([scatter / n, 0])
    length = np.linalg.norm(mean)
    assert length**2 == pytest.approx(1 - scatter / n)
    np.testing.assert_allclose(length * state["memory"][0].numpy(), mean, atol=1e-7)
    assert scatter == pytest.approx(sum(residuals))  # each residual is one of the n − 1 degrees of freedom
    variance = np.mean(residuals) if residuals else 0.0
    assert float(state["memory_shared_variance"]) == pytest.approx(variance)
    expected = min((scatter + prior * variance) / (n - 1 + prior), spread.WIDEST)
    assert spread.shrunk_variance(state, prior).tolist() == pytest.approx([expected, min(variance, spread.WIDEST)])


def test_spread_follow_forgets_old_features_and_restarts_dead_classes():
    state = empty(Gaussian(bank=1), 1, 2)
    x = torch.tensor([angle(0), angle(90)], dtype=torch.float64)
    for number in range(60):
        spread.follow(state, x[number % 2 : number % 2 + 1], torch.tensor([0]), 5, 0.5)
    assert float(state["memory_count"]) == pytest.approx(3.0)  # (1 + α)/(1 − α)
    mean = (1.0 - state["memory_variance"]).sqrt() * state["memory"][0]
    assert mean.tolist() == pytest.approx([1 / 3, 2 / 3])  # the last weighs 1/2 + 1/8 + ...
    for _ in range(5):
        spread.follow(state, x[:0], torch.empty(0, dtype=torch.int64), 5, 0.5)
    found = spread.follow(state, x[:1], torch.tensor([0]), 5, 0.5)
    assert not found.any()
    assert state["memory"].tolist() == [angle(0)]
    assert (float(state["memory_variance"]), float(state["memory_count"])) == (0.0, 1.0)


def cloud(samples, dim, variance, seed=0):
    """Unit vectors around the first axis with E‖x − Ex‖² near ``variance``."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, dim, generator=g, dtype=torch.float64)
    noise[:, 0] = 0
    axis = torch.zeros(dim, dtype=torch.float64)
    axis[0] = 1.0
    return normalize(math.sqrt(1 - variance) * axis + math.sqrt(variance / (dim - 1)) * noise, dim=1)


@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("variance", [0.1, 0.5])
def test_Memory_reader_of_spread_kinds_draws_with_mean_and_variance_of_the_features(kind, variance):
    """400 classes around one direction: all draws together have the statistics of the features."""
    dim, classes, seen = 48, 400, 6
    memory = kind(bank=2000)
    state = empty(memory, classes, dim)
    x = cloud(classes * seen, dim, variance).split(classes)
    for part in x:
        remember(memory, state, part, torch.arange(classes), delta_t=50)
    features = torch.cat(x)
    draws = torch.cat([injected(memory, state, step) for step in range(5)])
    torch.testing.assert_close(draws.norm(dim=1), torch.ones(len(draws), dtype=torch.float64))
    assert float(state["memory_shared_variance"]) == pytest.approx(variance, rel=0.05)
    around = draws.reshape(5, classes, dim) - ((1.0 - state["memory_variance"]).sqrt().unsqueeze(1) * state["memory"])
    assert float(around.square().sum(2).mean()) == pytest.approx(variance, rel=0.1)
    assert float(draws.mean(0)[1:].norm()) < 0.03 + float(features.mean(0)[1:].norm())


@pytest.mark.parametrize("kind", [Gaussian, VonMisesFisher])
@pytest.mark.parametrize(("dim", "variance"), [(32, 0.05), (32, 0.4), (256, 0.3)])
def test_Gaussian_and_VonMisesFisher_draws_have_the_resultant_length_of_the_mean(kind, dim, variance):
    classes = 20_000
    memory = kind(bank=4096)
    state = empty(memory, classes, dim)
    state["memory"][:, 0] = 1.0
    state["timer"][:] = 1
    state["memory_count"][:] = 1.0
    state["memory_shared_variance"] += variance
    draws = injected(memory, state)
    mean = draws.mean(0)
    assert float(mean[0]) == pytest.approx(math.sqrt(1 - variance), abs=0.004)
    assert float((draws - math.sqrt(1 - variance) * state["memory"]).square().sum(1).mean()) == pytest.approx(
        variance, rel=0.03
    )
    across = draws[:, 1:]
    assert float(across.mean(0).norm()) < 4 * math.sqrt(variance / 4096)
    # no direction across the mean is preferred: all have the share 1/(d−1), up to the 4096 rows of the bank
    assert float(across.square().mean(0).max()) * (dim - 1) / variance < 1.15


@pytest.mark.parametrize("dim", [2, 3, 10, 64])
@pytest.mark.parametrize("kappa", [0.5, 10.0, 200.0])
def test_von_mises_fisher_cosines_have_the_exact_moments(dim, kappa):
    """E w = A_d(κ) = I_{d/2}(κ)/I_{d/2−1}(κ), and E w² = 1 − (d−1)/κ·A_d(κ)."""
    count = 100_000
    every = torch.full((count,), kappa, dtype=torch.float64)
    w = cosines(every, dim, Draw(range(count), 3, 5), torch.ones(count, dtype=torch.bool))
    mean = ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa)
    square = 1 - (dim - 1) / kappa * mean
    deviation = math.sqrt(square - mean**2)
    assert float(w.mean()) == pytest.approx(mean, abs=4 * deviation / math.sqrt(count))
    assert float(w.var()) == pytest.approx(square - mean**2, rel=0.03)


@pytest.mark.parametrize("dim", [3, 64, 512])
@pytest.mark.parametrize("length", [0.3, 0.7, 0.95])
def test_concentration_inverts_the_resultant_length(dim, length):
    kappa = float(concentration(torch.tensor([1 - length**2], dtype=torch.float64), dim))
    assert ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa) == pytest.approx(length, rel=0.02 if dim == 3 else 1e-3)


def test_BorrowedSpread_matches_hand_computed_values():
    """Class 0 varies along y; class 1, seen once, is displaced by a residual of class 0."""
    kind = BorrowedSpread(momentum=0.9, prior=4.0, bank=3)
    state = empty(kind, 2, 3)
    a, b = [math.cos(0.3), math.sin(0.3), 0.0], [math.cos(0.3), -math.sin(0.3), 0.0]
    remember(kind, state, [a, [0.0, 0.0, 1.0]], [0, 1])
    assert torch.equal(injected(kind, state)[1], state["memory"][1])  # no residual yet: the mean
    remember(kind, state, [b], [0])
    residual = [0.0, -2 * math.sin(0.3) / math.sqrt(2), 0.0]
    assert state["memory_bank"].tolist() == [pytest.approx(residual), [0, 0, 0], [0, 0, 0]]
    variance = 2 * math.sin(0.3) ** 2
    assert float(state["memory_shared_variance"]) == pytest.approx(variance)
    draw = torch.tensor([0.0, residual[1], math.sqrt(1 - variance)], dtype=torch.float64)
    torch.testing.assert_close(injected(kind, state)[1], normalize(draw, dim=0))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_BorrowedSpread_bank_keeps_the_newest_residuals(sizes):
    kind = BorrowedSpread(bank=4)
    state, bank, place = empty(kind, 9, 2), np.zeros((4, 2)), 0

    def total(part):
        nonlocal place
        for row in part.tolist():
            if row[-1]:
                bank[place % 4] = row[:-1]
                place += 1
        return part

    kind.remember(state, torch.tensor([angle(0)] * 9, dtype=torch.float64), torch.arange(9), 9, alone)
    for step, size in enumerate(sizes):
        before = state["memory_bank"]
        kept = before.clone()
        x = torch.tensor([angle(step + row) for row in range(size)], dtype=torch.float64).reshape(size, 2)
        kind.remember(state, x, torch.arange(size), 9, total)
        assert torch.equal(before, kept)  # a step under way still sees it
        assert int(state["memory_residuals"]) == place
        np.testing.assert_array_equal(state["memory_bank"], bank)


@pytest.mark.parametrize("kind", [*SPREAD, SeveralFeatures])
def test_Memory_reader_draws_depend_only_on_seed_step_and_class_id(kind):
    memory = kind()
    state = empty(memory, 40, 8)
    for number in range(3):
        remember(memory, state, cloud(40, 8, 0.3, seed=number), torch.arange(40))
    whole = injected(memory, state, step=4)
    assert torch.equal(whole, injected(memory, state, step=4))
    assert not torch.equal(whole, injected(memory, state, step=5))
    assert not torch.equal(whole, injected(memory, state, step=4, seed=1))
    part = {name: tensor[13:29] if name in memory.per_class else tensor for name, tensor in state.items()}
    read = memory.reader(part, Draw(range(13, 29), 0, 4))
    torch.testing.assert_close(read(part["memory"], slice(None)), whole[13:29], atol=1e-15, rtol=0)
    some = torch.tensor([3, 0, 3, 7])
    torch.testing.assert_close(read(part["memory"], some), whole[13 + some], atol=1e-15, rtol=0)


@pytest.mark.parametrize("kind", SPREAD)
def test_Memory_reader_of_spread_kinds_gives_the_mean_before_the_first_residual(kind):
    memory = kind()
    state = empty(memory, 3, 4)
    remember(memory, state, cloud(2, 4, 0.3), [0, 2])
    torch.testing.assert_close(injected(memory, state), state["memory"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunningMean(1.0), "momentum"),
        (lambda: SeveralFeatures(0), "count"),
        (lambda: Gaussian(momentum=-0.1), "momentum"),
        (lambda: VonMisesFisher(prior=0.0), "prior"),
        (lambda: BorrowedSpread(bank=0), "bank"),
        (lambda: empty(Gaussian(), 3, 1), "at least 2 dimensions"),
    ],
)
def test_Memory_refuses_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_Variational_refuses_what_is_not_a_Memory():
    with pytest.raises(TypeError, match="kind of memory"):
        Variational(memory="last")
