import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vplface import ArcFace, CombinedMargin, CosFace, NormSoftmax
from vplface.prototypes import Injection
from vplface.softmax.reference import margin_softmax

MARGINS = [
    NormSoftmax(16.0),
    ArcFace(16.0, 0.4),
    ArcFace(16.0, 0.4, "detached"),
    CosFace(16.0, 0.3),
    CombinedMargin(16.0, 1.2, 0.2, 0.1),
]


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def problem(batch, classes, dim, seed, lam=0.3, renormalise=True, alive=0.5):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    weight = 3 * torch.randn(classes, dim, generator=g, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=g)
    memory = unit(torch.randn(classes, dim, generator=g, dtype=torch.float64))
    timer = (torch.rand(classes, generator=g) < alive).to(torch.int32) * 4
    return x, labels, weight, Injection(memory, timer, lam, renormalise)


def naive_loss(x, labels, weight, margin, injection):
    """The definition, scalar by scalar in numpy."""
    x, weight, labels = x.detach().numpy(), weight.detach().numpy(), labels.numpy()
    total = 0.0
    for sample, label in zip(x, labels, strict=True):
        sample = sample / np.sqrt(np.sum(sample**2))
        logits = []
        for j, row in enumerate(weight):
            u = row / np.sqrt(np.sum(row**2))
            if injection is not None and injection.timer[j] > 0:
                u = (1 - injection.lam) * u + injection.lam * injection.memory[j].numpy()
                if injection.renormalise:
                    u = u / np.sqrt(np.sum(u**2))
            cosine = float(np.dot(u, sample))
            if j == label:
                cosine = float(margin.target(torch.tensor([cosine], dtype=torch.float64))[0])
            logits.append(margin.scale * cosine)
        total += math.log(sum(math.exp(z - max(logits)) for z in logits)) + max(logits) - logits[label]
    return total / len(x)


@given(
    st.integers(1, 6),
    st.integers(2, 9),
    st.integers(1, 7),
    st.integers(0, 999),
    st.sampled_from(MARGINS),
    st.booleans(),
)
def test_margin_softmax_matches_a_naive_numpy_implementation(batch, classes, dim, seed, margin, renormalise):
    x, labels, weight, injection = problem(batch, classes, dim, seed, renormalise=renormalise)
    for given_injection in (None, injection):
        loss = margin_softmax(unit(x), labels, weight, margin, given_injection)
        assert float(loss) == pytest.approx(
            naive_loss(x, labels, weight, margin, given_injection), rel=1e-10, abs=1e-12
        )


def test_margin_softmax_matches_hand_computed_values_for_three_classes():
    # x at 0°, prototypes at 60° (its own), 90° and 180°; s = 2
    x = torch.tensor([[5.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, math.sqrt(3)], [0.0, 0.1], [-7.0, 0.0]], dtype=torch.float64)
    label = torch.tensor([0])
    plain = margin_softmax(unit(x), label, weight, NormSoftmax(2.0))
    assert float(plain) == pytest.approx(math.log(math.e + 1 + math.exp(-2)) - 1)
    arc = margin_softmax(unit(x), label, weight, ArcFace(2.0, math.pi / 6))
    assert float(arc) == pytest.approx(math.log(1 + 1 + math.exp(-2)))
    # the second class remembers a feature at 0°; λ = 1/2 turns its prototype from 90° to 45°
    memory = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    injection = Injection(memory, torch.tensor([0, 1, 0], dtype=torch.int32), 0.5, True)
    vpl = margin_softmax(unit(x), label, weight, NormSoftmax(2.0), injection)
    assert float(vpl) == pytest.approx(math.log(math.e + math.exp(math.sqrt(2)) + math.exp(-2)) - 1)


@given(
    st.integers(1, 6),
    st.integers(2, 9),
    st.integers(2, 7),
    st.integers(0, 999),
    st.sampled_from(MARGINS),
    st.booleans(),
)
def test_margin_softmax_gradients_match_the_closed_form(batch, classes, dim, seed, margin, renormalise):
    """dZ = (g − (g·U)U)/‖Z‖, dv = (1−λ1)dZ, dW = (dv − (dv·v)v)/‖W‖, and dx through its normalisation."""
    x, labels, weight, injection = problem(batch, classes, dim, seed, renormalise=renormalise)
    x.requires_grad_()
    weight.requires_grad_()
    margin_softmax(unit(x), labels, weight, margin, injection).backward()

    with torch.no_grad():
        v, f = unit(weight), unit(x)
        share = injection.lam * (injection.timer > 0).double().unsqueeze(1)
        z = (1 - share) * v + share * injection.memory
        length = z.norm(dim=1, keepdim=True) if renormalise else torch.ones(classes, 1, dtype=torch.float64)
        u = z / length
        cosine = f @ u.T
        hot = torch.nn.functional.one_hot(labels, classes).double()
        own = (cosine * hot).sum(1)
    own.requires_grad_()
    target = margin.target(own)
    (slope,) = torch.autograd.grad(target.sum(), own)
    with torch.no_grad():
        logits = margin.scale * (cosine * (1 - hot) + target.unsqueeze(1) * hot)
        d_cosine = margin.scale * (logits.softmax(1) - hot) / batch
        d_cosine = d_cosine * torch.where(hot > 0, slope.unsqueeze(1), 1.0)
        g = d_cosine.T @ f
        d_z = (g - (g * u).sum(1, keepdim=True) * u) / length if renormalise else g
        d_v = (1 - share) * d_z
        d_weight = (d_v - (d_v * v).sum(1, keepdim=True) * v) / weight.norm(dim=1, keepdim=True)
        d_f = d_cosine @ u
        d_x = (d_f - (d_f * f).sum(1, keepdim=True) * f) / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(weight.grad, d_weight, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(x.grad, d_x, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("margin", [m for m in MARGINS if getattr(m, "margin_gradient", "exact") == "exact"])
@pytest.mark.parametrize("renormalise", [True, False])
def test_margin_softmax_gradients_match_finite_differences(margin, renormalise):
    x, labels, weight, injection = problem(3, 5, 4, 1, renormalise=renormalise)
    assert torch.autograd.gradcheck(
        lambda x, w: margin_softmax(unit(x), labels, w, margin, injection),
        (x.requires_grad_(), weight.requires_grad_()),
    )


def test_margin_softmax_under_autocast_keeps_reductions_in_float32():
    x, labels, weight, injection = problem(8, 50, 16, 0)
    args = (unit(x).float(), labels, weight.float(), ArcFace(16.0, 0.4), injection)
    exact = margin_softmax(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = margin_softmax(*args)
    assert low.dtype == torch.float32
    assert low != exact
    torch.testing.assert_close(low, exact, rtol=2e-2, atol=0)


def test_margin_softmax_is_finite_at_small_and_large_scales():
    x, labels, weight, _ = problem(4, 6, 3, 0)
    for scale in (1e-3, 1e3, 1e6):
        assert margin_softmax(unit(x).float(), labels, weight.float(), NormSoftmax(scale)).isfinite()
