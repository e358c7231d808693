"""SphereFace and SphereFace-R: multiplicative angular margins."""

from __future__ import annotations

import math

import numpy as np
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
from vplface import CombinedMargin, NormSoftmax, PrototypeHead, SphereFace, SphereFaceR
from vplface.plan import expected_first_loss

MARGINS = [
    SphereFace(8.0, 1.5),
    SphereFace(8.0, 4.0, "detached"),
    SphereFaceR(8.0, 1.5, "v1", "exact"),
    SphereFaceR(8.0, 1.4, "v2", "exact"),
    SphereFaceR(8.0, 1.4, "v2", "detached"),
]
FAST = [
    {"fused": True},
    {"operations": "torch", "fused": True},
    {"backend": "triton", "fused": True, "steps": 3},
]


def cosines(*angles):
    return torch.tensor(angles, dtype=torch.float64).cos()


def test_SphereFace_target_matches_hand_computed_values():
    # m = 4: θ = .2 has k = 0, cos .8; θ = 1 has k = 1, −cos 4 − 2; θ = 2 has k = 2, cos 8 − 4; θ = 3 has k = 3
    target = SphereFace(margin=4.0).target(cosines(0.2, 1.0, 2.0, 3.0, math.pi))
    expected = [math.cos(0.8), -math.cos(4.0) - 2, math.cos(8.0) - 4, -math.cos(12.0) - 6, -7.0]
    assert target.tolist() == pytest.approx(expected)


@given(st.floats(1, 6))
def test_SphereFace_target_falls_without_a_jump(margin):
    theta = torch.linspace(0, math.pi, 2000, dtype=torch.float64)
    target = SphereFace(margin=margin).target(theta.cos())
    assert (target.diff() <= 1e-9).all()
    assert (target.diff().abs() <= margin * math.pi / 1999 + 1e-6).all()
    assert target[0] == pytest.approx(1.0)
    assert target[-1] >= 1.0 - 2.0 * math.ceil(margin) - 1e-9  # every half turn it falls by 2


def test_SphereFace_target_equals_CombinedMargin_at_small_angles():
    near = cosines(0.1, 0.8, 1.5)
    torch.testing.assert_close(SphereFace(margin=2.0).target(near), CombinedMargin(m1=2.0, m2=0.0, m3=0.0).target(near))


def test_SphereFaceR_target_and_negative_match_hand_computed_values():
    near = cosines(0.5, 1.0, 3.0)
    # v1, m = 1.5: cos .75, cos 1.5, and 4.5 > π
    assert SphereFaceR().target(near).tolist() == pytest.approx([math.cos(0.75), math.cos(1.5), -1.0])
    assert SphereFaceR().negative(near, near, None) is near
    v2 = SphereFaceR(version="v2", margin=2.0)
    assert v2.target(near) is near
    assert v2.negative(near, near, None).tolist() == pytest.approx([math.cos(0.25), math.cos(0.5), math.cos(1.5)])


def test_SphereFaceR_v2_loss_matches_a_hand_computed_value():
    # x at 0°, its own prototype at 60°, the other at 90°, m = 2: s·(cos 60°, cos 45°)
    head = PrototypeHead(2, 2, margin=SphereFaceR(2.0, 2.0, "v2"), dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, math.sqrt(3)], [0.0, 5.0]]))
    loss = head(torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log(math.exp(1.0) + math.exp(math.sqrt(2))) - 1.0)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("choice", ["exact", "detached"])
def test_SphereFaceR_derivatives_match_hand_computed_values(version, choice):
    theta = torch.tensor([0.3, 1.0, 1.9], dtype=torch.float64)
    margin = SphereFaceR(1.0, 1.5, version, choice)
    leaf = theta.cos().requires_grad_()
    value = margin.target(leaf) if version == "v1" else margin.negative(leaf, leaf.detach(), None)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    m = 1.5 if version == "v1" else 1 / 1.5
    expected = m * (m * theta).sin() / theta.sin() if choice == "exact" else torch.ones_like(theta)
    torch.testing.assert_close(slope, expected)


@given(st.floats(-1.0000001, 1.0000001), st.floats(1, 9), st.sampled_from(["exact", "detached"]))
def test_SphereFaceR_v2_negative_raises_cosines_within_the_bound(cosine, m, choice):
    leaf = torch.tensor([cosine], dtype=torch.float64).requires_grad_()
    margin = SphereFaceR(1.0, m, "v2", choice)
    raised = margin.negative(leaf, leaf.detach(), None)
    assert cosine - 1e-6 <= float(raised.detach()) <= margin.bound + 1e-6
    (slope,) = torch.autograd.grad(raised, leaf)
    assert slope.isfinite()


@pytest.mark.parametrize("margin", [m for m in MARGINS if m.margin_gradient == "exact"], ids=str)
def test_SphereFace_and_SphereFaceR_gradients_match_finite_differences(margin):
    require_numeric_gradient(margin)


@pytest.mark.parametrize("margin", MARGINS, ids=str)
@pytest.mark.parametrize("changes", FAST, ids=str)
def test_SphereFace_and_SphereFaceR_on_fast_backends_match_the_reference(margin, changes, monkeypatch):
    require_definition(settings(margin, **changes), monkeypatch)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_SphereFaceR_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(MARGINS[3], **changes), monkeypatch)


@pytest.mark.parametrize("scale", [64.0, 200.0])
def test_SphereFaceR_v2_at_a_large_scale_matches_the_reference(scale, monkeypatch):
    require_definition(settings(SphereFaceR(scale, 2.0, "v2"), fused=True), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [MARGINS[0], MARGINS[4]], ids=["sphereface", "v2"])
@pytest.mark.parametrize(("world", "changes"), RANKS[:4], ids=str)
def test_SphereFace_and_SphereFaceR_on_several_ranks_match_one_process(processes, margin, world, changes):
    require_one_process(processes, world, settings(margin, **changes))


def test_SphereFaceR_refuses_filter_bound_in_v2_only():
    with pytest.raises(ValueError, match=r"filter_bound.*SphereFaceR, which changes the logits of other classes"):
        PrototypeHead(5, 4, margin=MARGINS[3], filter_bound=0.1)
    PrototypeHead(5, 4, margin=MARGINS[2], filter_bound=0.1)


def test_expected_first_loss_counts_the_raised_negatives_of_SphereFaceR():
    margin, classes, dim = SphereFaceR(16.0, 1.5, "v2"), 1000, 128
    cosine = np.linspace(-1, 1, 20001)
    density = np.exp(-dim * cosine**2 / 2)
    mean = np.sum(density * np.exp(16.0 * np.cos(np.arccos(cosine) / 1.5))) / density.sum()
    assert expected_first_loss(margin, classes, dim) == pytest.approx(math.log(1 + (classes - 1) * mean), rel=1e-3)
    assert expected_first_loss(SphereFaceR(16.0, 1.0, "v2"), classes, dim) == pytest.approx(
        expected_first_loss(NormSoftmax(16.0), classes, dim), rel=1e-6
    )


def test_SphereFace_and_SphereFaceR_are_configured_by_name():
    require_named("sphereface", SphereFace(30.0, 2.0), margin=2)
    require_named("spherefacer", SphereFaceR(30.0, 1.4, "v2"), version="v2", margin=1.4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SphereFace(scale=0.0), "scale"),
        (lambda: SphereFace(margin=0.9), "at least 1, got 0.9"),
        (lambda: SphereFaceR(margin=0.0), "at least 1"),
        (lambda: SphereFaceR(version="v3"), "version"),
        (lambda: SphereFaceR(margin_gradient="off"), "margin_gradient"),
    ],
)
def test_SphereFace_and_SphereFaceR_refuse_values_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
