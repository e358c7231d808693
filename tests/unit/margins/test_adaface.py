"""AdaFace: margins by the feature norm."""

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
    batch,
    require_definition,
    require_named,
    require_numeric_gradient,
    require_one_process,
    require_parts_leave_what_the_whole_leaves,
    require_state,
    settings,
)
from vplface import AdaFace, ArcFace, CosFace, PrototypeHead
from vplface.margins import Samples

MARGIN = AdaFace(8.0, 0.4, h=0.7, t_alpha=0.3)


def samples(*norms):
    return Samples(torch.tensor(norms, dtype=torch.float64), pytest.fail, pytest.fail)  # must not be called


def state(mean, std):
    return {"norm_mean": torch.tensor(mean, dtype=torch.float64), "norm_std": torch.tensor(std, dtype=torch.float64)}


def test_AdaFace_strength_matches_hand_computed_values():
    # h·(a − μ)/(σ + .001) with μ 20, σ 4.999: .333·(25 − 20)/5 = .333, 0, and cut off at −1 and at a = 100 to 1
    found = AdaFace().strength(samples(25.0, 20.0, 1.0, 1e9), state(20.0, 4.999))
    assert found.tolist() == pytest.approx([0.333, 0.0, -1.0, 1.0])
    # the longest norm that counts is 100: .333·(100 − 20)/100 = .2664, with σ 99.999
    assert AdaFace().strength(samples(500.0), state(20.0, 99.999)).tolist() == pytest.approx([0.2664])


def test_AdaFace_target_matches_hand_computed_values():
    theta = torch.full((4,), 1.0, dtype=torch.float64)
    quality = torch.tensor([-1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    # θ 1, m .4: cos 1.4; cos 1 − .4; cos .8 − .6; cos .6 − .8
    expected = [math.cos(1.4), math.cos(1.0) - 0.4, math.cos(0.8) - 0.6, math.cos(0.6) - 0.8]
    assert AdaFace().target(theta.cos(), quality).tolist() == pytest.approx(expected)


def test_AdaFace_target_clips_angles_without_a_gradient():
    cosine = torch.tensor([math.cos(0.1), math.cos(3.0)], dtype=torch.float64).requires_grad_()
    # .1 − .4 < 0: cos 0 − .8; 3 + .4 > π: cos π − 0
    target = AdaFace().target(cosine, torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert target.tolist() == pytest.approx([0.2, -1.0])
    assert torch.autograd.grad(target.sum(), cosine)[0].tolist() == [0.0, 0.0]


def test_AdaFace_target_equals_ArcFace_at_quality_minus_one_and_CosFace_at_zero():
    cosine = torch.linspace(-0.9, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(AdaFace().target(cosine, -torch.ones_like(cosine)), ArcFace(margin=0.4).target(cosine))
    torch.testing.assert_close(AdaFace().target(cosine, 0 * cosine), CosFace(margin=0.4).target(cosine))
    torch.testing.assert_close(AdaFace().target(cosine), CosFace(margin=0.4).target(cosine))


def test_AdaFace_learn_matches_hand_computed_values():
    # mean of 10, 20, 60 is 30, the unbiased deviation is √700; α = .01
    learnt = AdaFace().learn(state(20.0, 100.0), AdaFace().observe(samples(10.0, 20.0, 60.0)))
    assert float(learnt["norm_mean"]) == pytest.approx(20.1)
    assert float(learnt["norm_std"]) == pytest.approx(99.0 + 0.01 * math.sqrt(700))
    alone = AdaFace().learn(state(20.0, 100.0), AdaFace().observe(samples(1e4)))  # counts as 100
    assert (float(alone["norm_mean"]), float(alone["norm_std"])) == pytest.approx((20.8, 100.0))


def naive(xs, labels, weight, margin, mean, std):
    """The loss of a batch and the new μ and σ, sample by sample in numpy, by the angle itself."""
    norms = np.array([min(max(float(np.linalg.norm(x)), 1e-3), 100.0) for x in xs])
    mean += margin.t_alpha * (norms.mean() - mean)
    std += margin.t_alpha * (norms.std(ddof=1) - std)
    total = 0.0
    for x, label, norm in zip(xs, labels, norms, strict=True):
        cosines = weight @ x / np.linalg.norm(weight, axis=1) / np.linalg.norm(x)
        quality = np.clip(margin.h * (norm - mean) / (std + 1e-3), -1, 1)
        theta = np.clip(np.arccos(cosines[label]) - margin.margin * quality, 0, np.pi)
        cosines[label] = np.cos(theta) - margin.margin * quality - margin.margin
        total += np.log(np.exp(margin.scale * (cosines - cosines[label])).sum())
    return total / len(xs), mean, std


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_AdaFace_losses_match_a_numpy_implementation_of_the_paper(backend):
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64, backend=backend)
    mean, std = 20.0, 100.0
    for seed in range(5):
        x, labels = batch(seed, length=20.0)
        expected, mean, std = naive(x.numpy(), labels.numpy(), head.weight.detach().numpy(), MARGIN, mean, std)
        loss = head(x, labels)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    kept = head.state_dict()
    assert (float(kept["margin_norm_mean"]), float(kept["margin_norm_std"])) == pytest.approx((mean, std), rel=1e-12)


def test_AdaFace_gives_norms_no_gradient():
    x, labels = batch(0, length=20.0)
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64)
    head(x.requires_grad_(), labels).backward()
    along = (x.grad * x).sum(1).detach()
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, math.pi / 2))
def test_AdaFace_target_is_bounded(cosine, quality, m):
    cosine, quality = (torch.tensor([each], dtype=torch.float64) for each in (cosine, quality))
    target = float(AdaFace(margin=m).target(cosine, quality))
    assert -1.0 - 2.0 * m - 1e-9 <= target <= 1.0 + 1e-9


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.floats(1e-3, 100), st.floats(0, 100))
def test_AdaFace_strength_is_bounded(norms, mean, std):
    found = AdaFace().strength(samples(*norms), state(mean, std))
    assert (found.abs() <= 1).all()


def test_AdaFace_gradients_match_finite_differences():
    require_numeric_gradient(MARGIN, torch.tensor([-0.9, -0.3, 0.0, 0.1, 0.4, -0.7], dtype=torch.float64))


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_AdaFace_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(MARGIN, length=20.0, **changes), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "changes"), RANKS, ids=str)
def test_AdaFace_on_several_ranks_matches_one_process(processes, world, changes):
    require_one_process(processes, world, settings(MARGIN, length=20.0, **changes))


def test_AdaFace_state_is_saved_loaded_copied_and_moved():
    require_state(MARGIN, length=20.0)


def test_AdaFace_learns_once_from_all_micro_batches_of_a_step():
    require_parts_leave_what_the_whole_leaves(MARGIN, length=20.0)


def test_AdaFace_is_configured_by_name():
    require_named("adaface", AdaFace(32.0, 0.5), scale=32, margin=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0.0}, "scale"), ({"margin": 2.0}, "margin"), ({"h": 0.0}, "h must"), ({"t_alpha": 1.5}, "t_alpha")],
)
def test_AdaFace_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        AdaFace(**options)
