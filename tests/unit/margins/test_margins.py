import math

import pytest
import torch

from vplface import ArcFace, CombinedMargin, CosFace, NormSoftmax

COSINES = torch.linspace(-1, 1, 400, dtype=torch.float64)


def by_angle(cosine, m1, m2, m3):
    """The combined margin, one scalar at a time through the angle itself."""
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    if m1 * theta + m2 > math.pi + 1e-12:
        return cosine - m2 * math.sin(m2) - m3
    return math.cos(m1 * theta + m2) - m3


@pytest.mark.parametrize(
    ("margin", "m1", "m2", "m3"),
    [
        (NormSoftmax(30.0), 1, 0, 0),
        (ArcFace(margin=0.5), 1, 0.5, 0),
        (ArcFace(margin=0.5, margin_gradient="detached"), 1, 0.5, 0),
        (CosFace(margin=0.35), 1, 0, 0.35),
        (CombinedMargin(m1=1.0, m2=0.3, m3=0.2), 1, 0.3, 0.2),
        (CombinedMargin(m1=1.35, m2=0.3, m3=0.1), 1.35, 0.3, 0.1),
        (CombinedMargin(m1=2.0, m2=0.0, m3=0.0), 2, 0, 0),
    ],
)
def test_Margin_target_matches_the_definition_by_angle(margin, m1, m2, m3):
    expected = torch.tensor([by_angle(float(c), m1, m2, m3) for c in COSINES], dtype=torch.float64)
    torch.testing.assert_close(margin.target(COSINES), expected, atol=1e-7, rtol=0)


def test_ArcFace_target_matches_hand_computed_values():
    cosine = torch.tensor([math.cos(1.0), math.cos(0.2)], dtype=torch.float64)
    target = ArcFace(margin=0.5).target(cosine)
    torch.testing.assert_close(target, torch.tensor([math.cos(1.5), math.cos(0.7)], dtype=torch.float64))


def test_ArcFace_target_jumps_past_pi_minus_m_as_documented():
    m, eps = 0.5, 1e-9
    before, after = ArcFace(margin=m).target(
        torch.tensor([math.cos(math.pi - m - eps), math.cos(math.pi - m + eps)], dtype=torch.float64)
    )
    assert before == pytest.approx(-1.0, abs=1e-7)
    assert after - before == pytest.approx(1 - math.cos(m) - m * math.sin(m), abs=1e-7)
    assert after - before == pytest.approx(-0.117, abs=1e-3)


def test_ArcFace_target_gradient_is_exact_or_one():
    theta = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    for gradient, expected in (
        ("exact", torch.sin(theta + 0.5) / torch.sin(theta)),
        ("detached", torch.ones(3).double()),
    ):
        cosine = theta.cos().requires_grad_()
        ArcFace(margin=0.5, margin_gradient=gradient).target(cosine).sum().backward()
        torch.testing.assert_close(cosine.grad, expected)


@pytest.mark.parametrize("margin", [ArcFace(), CombinedMargin(m1=1.2), ArcFace(margin_gradient="detached")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1.0, -1.0, 1.0 + 3e-7, -1.0 - 3e-7])
def test_Margin_target_gradients_are_finite_where_sample_and_class_coincide(margin, dtype, value):
    cosine = torch.tensor([value], dtype=dtype, requires_grad=True)
    target = margin.target(cosine)
    target.sum().backward()
    assert target.isfinite().all()
    assert cosine.grad.isfinite().all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ArcFace_sample_gradient_vanishes_where_sample_and_class_coincide(sign):
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(x, dim=1)
    prototype = sign * unit.detach()
    ArcFace().target((unit * prototype).sum(1)).sum().backward()
    assert x.grad.norm() < 1e-6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArcFace(scale=0), "scale"),
        (lambda: ArcFace(margin=2.0), "margin"),
        (lambda: ArcFace(margin_gradient="none"), "margin_gradient"),
        (lambda: CosFace(margin=-0.1), "margin"),
        (lambda: NormSoftmax(-1.0), "scale"),
        (lambda: CombinedMargin(m1=0.5), "m1"),
        (lambda: CombinedMargin(m2=-0.5), "m2"),
        (lambda: CombinedMargin(m3=-0.5), "m3"),
    ],
)
def test_Margin_refuses_values_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
