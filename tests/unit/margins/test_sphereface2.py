"""SphereFace2: a binary classification for every class."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from helpers.margin_checks import RANKS, WAYS, batch, require_definition, require_named, require_one_process, settings
from vplface import EPL, UNPG, BroadFace, FusedSGD, PrototypeHead, SphereFace2, UniTSFace, Variational
from vplface.plan import expected_first_loss
from vplface.prototypes import Injection
from vplface.softmax import binary

MARGIN = SphereFace2(8.0, 0.2, weight=5.0)
EXACT = SphereFace2(8.0, 0.2, lam=0.4, t=2.0, weight=5.0, margin_gradient="exact")
WHOLE = [way for way in WAYS if "sample_rate" not in way.get("options", {})]


def softplus(x):
    return math.log1p(math.exp(x))


def test_SphereFace2_target_and_negative_match_hand_computed_values():
    # t = 3: g(1) = 1, g(0) = 2/8 − 1 = −.75, g(−1) = −1
    cosine = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    assert SphereFace2().target(cosine).tolist() == pytest.approx([0.6, -1.15, -1.4])
    assert SphereFace2().negative(cosine, cosine, None).tolist() == pytest.approx([1.4, -0.35, -0.6])


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
def test_SphereFace2_loss_matches_a_hand_computed_value(backend):
    # x at 0°, its prototype at 60° (g = 2·.75³ − 1 = −.15625), the others at 90° (−.75) and 180° (−1); s 2, m .1, b .3
    margin = SphereFace2(2.0, 0.1, lam=0.7, weight=5.0)
    head = PrototypeHead(3, 2, margin=margin, dtype=torch.float64, backend=backend)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, math.sqrt(3)], [0.0, 2.0], [-3.0, 0.0]]))
        head.margin_bias.fill_(0.3)
    own, others = 2 * (-0.15625 - 0.1) + 0.3, [2 * (-0.75 + 0.1) + 0.3, 2 * (-1.0 + 0.1) + 0.3]
    expected = 5.0 / 2.0 * (0.7 * softplus(-own) + 0.3 * sum(map(softplus, others)))
    for training in (True, False):
        loss = head.train(training)(torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
        assert loss.item() == pytest.approx(expected)


@example(3, 0.7, 64.0, 0.4, 3.0)
@given(st.integers(2, 10**6), st.floats(0.05, 0.95), st.floats(1, 80), st.floats(0, 0.6), st.floats(1, 5))
def test_SphereFace2_first_bias_balances_positive_and_negative_gradients(classes, lam, scale, m, t):
    margin = SphereFace2(scale, m, lam, t)
    b, g = margin.first_bias(classes), 2 * 0.5**t - 1
    own, other = scale * (g - m) + b, scale * (g + m) + b
    pull = lam / (1 + math.exp(own))
    push = (1 - lam) * (classes - 1) / (1 + math.exp(-other))
    assert pull == pytest.approx(push, rel=1e-6)


def test_SphereFace2_bias_begins_at_first_bias():
    head = PrototypeHead(23, 4, margin=MARGIN)
    assert float(head.margin_bias.detach()) == pytest.approx(MARGIN.first_bias(23))


@given(st.floats(-1, 1), st.floats(0, 0.6), st.floats(1, 6))
def test_SphereFace2_negative_stays_within_the_bound_and_rises_with_the_cosine(cosine, m, t):
    margin = SphereFace2(1.0, m, t=t)
    pair = torch.tensor([cosine, min(cosine + 0.01, 1.0)], dtype=torch.float64)
    values = margin.negative(pair, pair, None)
    assert (values.abs() <= margin.bound + 1e-12).all()
    assert values[1] >= values[0] - 1e-12


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_binary_loss_gradients_match_finite_differences(threshold):
    g = torch.Generator().manual_seed(1)
    x, weight, memory = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (6, 5, 5))
    labels = torch.randint(5, (6,), generator=g)
    injection = Injection(normalize(memory, dim=1), torch.tensor([1, 0, 2, 0, 1]), 0.3)

    def loss(x, weight, bias):
        strength = bias.expand(6)
        arguments = normalize(x, dim=1), labels, weight, EXACT, injection
        return binary.binary_loss(*arguments, strength=strength, threshold=threshold)

    leaves = [leaf.requires_grad_() for leaf in (x, weight, torch.tensor(0.4, dtype=torch.float64))]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("margin", [MARGIN, EXACT], ids=["detached", "exact"])
@pytest.mark.parametrize("changes", WHOLE, ids=str)
def test_SphereFace2_in_every_configuration_matches_the_reference(margin, changes, monkeypatch):
    require_definition(settings(margin, **changes), monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"interclass_threshold": 0.2},
        {"subcenters": 3},
        {"terms": (UniTSFace(scale=8.0), EPL(start=1))},
    ],
    ids=str,
)
def test_SphereFace2_with_other_options_matches_the_reference(options, monkeypatch):
    require_definition(settings(EXACT, options=options, fused=True), monkeypatch)


def test_SphereFace2_with_BroadFace_matches_the_reference(monkeypatch):
    options = {"terms": (BroadFace(size=7, start=0),)}
    require_definition(settings(MARGIN, options=options, variational=None, fused=True), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize(("world", "changes"), [each for each in RANKS if each[0] < 4], ids=str)
def test_SphereFace2_on_several_ranks_matches_one_process(processes, backend, world, changes):
    require_one_process(processes, world, settings(MARGIN, **changes | {"backend": backend}))


@pytest.mark.slow
def test_SphereFace2_with_a_rank_without_classes_matches_one_process(processes):
    require_one_process(processes, 4, settings(MARGIN, classes=3, fused=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_SphereFace2_in_low_precision_stays_close_to_float64(dtype):
    head = PrototypeHead(3000, 4, margin=SphereFace2(), dtype=dtype, optimizer=FusedSGD(0.1))
    x, labels = batch(0, dtype=dtype)
    leaf = x.requires_grad_()
    exact = PrototypeHead(3000, 4, margin=SphereFace2(), dtype=torch.float64, backend="reference")
    with torch.no_grad():
        exact.weight.copy_(head.weight)
        exact.margin_bias.copy_(head.margin_bias)
    loss = head(leaf, labels)
    loss.backward()
    assert loss.item() == pytest.approx(
        exact(x.detach().double(), labels).item(), rel=1e-4 if dtype == torch.float32 else 0.1
    )
    assert leaf.grad.isfinite().all()
    assert head.weight.isfinite().all()


def test_SphereFace2_training_separates_two_classes():
    head = PrototypeHead(2, 3, margin=SphereFace2(8.0, 0.1), variational=Variational(0.2, 5, 3), dtype=torch.float64)
    x = torch.tensor([[1.0, 0.1, 0.0], [0.9, 0.0, 0.1], [0.0, 0.2, 1.0], [0.1, 0.0, 0.9]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    optimizer = torch.optim.SGD(head.parameters(), lr=0.001)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = head(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert float(head.margin_bias.detach()) != MARGIN.first_bias(2)


def test_SphereFace2_state_is_saved_loaded_and_copied():
    make = {"num_classes": 5, "embedding_dim": 4, "margin": MARGIN, "dtype": torch.float64}
    head = PrototypeHead(**make)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        head(*batch(seed)).backward()
        optimizer.step()
    state = head.state_dict()
    assert set(state) == {"weight", "step_count", "margin_bias"}
    assert "margin_bias" in head.shared_state
    fresh, twin = PrototypeHead(**make, seed=3), copy.deepcopy(head)
    assert fresh.load_state_dict(state).missing_keys == []
    assert head(*batch(5)) == fresh(*batch(5)) == twin(*batch(5))
    with pytest.raises(RuntimeError, match="margin_bias"):
        fresh.load_state_dict({key: value for key, value in state.items() if key != "margin_bias"})
    with pytest.raises(RuntimeError, match="margin_bias"):
        PrototypeHead(5, 4, dtype=torch.float64).load_state_dict(state)


def test_expected_first_loss_of_SphereFace2_matches_a_sampled_loss():
    margin, classes, dim = SphereFace2(16.0, 0.2), 200, 32
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=(count, dim)) for count in (2000, classes))
    x, w = (torch.from_numpy(each / np.linalg.norm(each, axis=1, keepdims=True)) for each in (x, w))
    bias = torch.tensor(margin.first_bias(classes), dtype=torch.float64).expand(2000)
    labels = torch.from_numpy(rng.integers(classes, size=2000))
    loss = binary.binary_loss(x, labels, w, margin, strength=bias)
    assert expected_first_loss(margin, classes, dim) == pytest.approx(float(loss), rel=0.05)


def test_SphereFace2_is_configured_by_name():
    require_named("sphereface2", SphereFace2(32.0, lam=0.6), scale=32, lam=0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0.5}, "sum over all others, and sample_rate"),
        ({"filter_bound": 0.1}, r"filter_bound.*SphereFace2"),
        ({"terms": [UNPG()]}, "UNPG adds negatives to the denominator of a softmax"),
    ],
)
def test_SphereFace2_refuses_options_that_require_a_softmax(options, message):
    with pytest.raises(ValueError, match=message):
        PrototypeHead(5, 4, margin=MARGIN, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale"),
        ({"margin": -0.1}, "margin"),
        ({"lam": 1.0}, "lam"),
        ({"t": 0.5}, "t must"),
        ({"weight": 0.0}, "weight"),
        ({"margin_gradient": "no"}, "margin_gradient"),
    ],
)
def test_SphereFace2_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SphereFace2(**options)
