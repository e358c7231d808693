"""X2-Softmax: a parabola of the angle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.margin_checks import (
    RANKS,
    WAYS,
    require_definition,
    require_named,
    require_numeric_gradient,
    require_one_process,
    settings,
)
from vplface import X2Softmax

MARGIN = X2Softmax(8.0, -0.6, -0.1, 0.9)


def test_X2Softmax_target_matches_hand_computed_values():
    theta = torch.tensor([0.0, 1.0, math.pi], dtype=torch.float64)
    # −.9·0 + .65; −.9·1 + .65; −.9·π² + .65
    expected = torch.tensor([0.65, -0.25, 0.65 - 0.9 * math.pi**2], dtype=torch.float64)
    torch.testing.assert_close(X2Softmax().target(theta.cos()), expected)
    # −.6·1.1² + .9 = .174
    assert float(MARGIN.target(torch.tensor([math.cos(1.0)], dtype=torch.float64))) == pytest.approx(0.174)


@pytest.mark.parametrize("choice", ["exact", "detached"])
def test_X2Softmax_target_derivative_matches_hand_computed_values(choice):
    theta = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    cosine = theta.cos().requires_grad_()
    X2Softmax(8.0, -0.6, -0.1, 0.9, choice).target(cosine).sum().backward()
    # d/dθ = −1.2·(θ + .1), dθ/dcosθ = −1/sinθ
    expected = 1.2 * (theta + 0.1) / theta.sin() if choice == "exact" else torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(cosine.grad, expected)


@given(st.floats(-3, -0.01), st.floats(-2, 0), st.floats(0, 1))
def test_X2Softmax_target_falls_with_the_angle_and_is_at_most_one(a, h, top):
    cosine = torch.linspace(1, -1, 200, dtype=torch.float64)
    target = X2Softmax(1.0, a, h, top - a * h**2 - 1e-12).target(cosine)
    assert (target.diff() <= 0).all()
    assert target[0] == pytest.approx(top, abs=1e-9)
    assert target[-1] == pytest.approx(top - a * h**2 + a * (math.pi - h) ** 2, abs=1e-6)


def test_X2Softmax_gradients_match_finite_differences():
    require_numeric_gradient(MARGIN)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_X2Softmax_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(MARGIN, **changes), monkeypatch)


@pytest.mark.parametrize("scale", [8.0, 64.0])
def test_X2Softmax_with_targets_far_below_other_logits_matches_the_reference(scale, monkeypatch):
    require_definition(settings(X2Softmax(scale, a=-3.0), fused=True), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "changes"), RANKS[:3], ids=str)
def test_X2Softmax_on_several_ranks_matches_one_process(processes, world, changes):
    require_one_process(processes, world, settings(MARGIN, **changes))


def test_X2Softmax_is_configured_by_name():
    require_named("x2softmax", X2Softmax(32.0, k=0.7), scale=32, k=0.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale"),
        ({"a": 0.0}, "a must be negative"),
        ({"h": 0.1}, "h must not be positive"),
        ({"k": 1.1}, "at most 1, got 1.1"),
        ({"margin_gradient": "none"}, "margin_gradient"),
    ],
)
def test_X2Softmax_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        X2Softmax(**options)
