"""ElasticFace: margins drawn for each sample."""

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
from vplface import ArcFace, BroadFace, CosFace, ElasticFace, PrototypeHead
from vplface.margins import Samples
from vplface.prototypes.batch import gather_batch

ARC, COS_PLUS = ElasticFace(8.0, sigma=0.1), ElasticFace(8.0, "cos", plus=True, margin=0.2, sigma=0.2)


def samples(noise, cosines):
    noise, cosines = (torch.tensor(each, dtype=torch.float64) for each in (noise, cosines))
    return Samples(torch.ones_like(noise), lambda: cosines, lambda: noise)


def test_ElasticFace_strength_matches_hand_computed_values():
    some = samples([1.0, -2.0, 0.5], [0.1, 0.9, -0.3])
    # m + σ·noise: .5 + .1 = .6, .5 − .2 = .3, .5 + .05 = .55
    drawn = ElasticFace(sigma=0.1).strength(some, {})
    torch.testing.assert_close(drawn, torch.tensor([0.6, 0.3, 0.55], dtype=torch.float64))
    # nearest, cosine .9, gets the smallest, .3; then .1 gets .55; the farthest, −.3, gets .6
    ordered = ElasticFace(plus=True, sigma=0.1).strength(some, {})
    torch.testing.assert_close(ordered, torch.tensor([0.55, 0.3, 0.6], dtype=torch.float64))


def test_ElasticFace_target_matches_hand_computed_values():
    theta, m = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64), torch.tensor([0.6, 0.2, 0.5], dtype=torch.float64)
    # cos .9, cos 1.2, and past π − m: cos 3 − .5·sin .5
    expected = torch.tensor([math.cos(0.9), math.cos(1.2), math.cos(3.0) - 0.5 * math.sin(0.5)], dtype=torch.float64)
    torch.testing.assert_close(ElasticFace().target(theta.cos(), m), expected)
    torch.testing.assert_close(ElasticFace(kind="cos").target(theta.cos(), m), theta.cos() - m)


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, (0.5, 0.05)),
        ({"plus": True}, (0.5, 0.0175)),
        ({"kind": "cos"}, (0.35, 0.05)),
        ({"kind": "cos", "plus": True}, (0.35, 0.02)),
        ({"margin": 0.4, "sigma": 0.0}, (0.4, 0.0)),
    ],
)
def test_ElasticFace_defaults_are_those_published(options, published):
    # noise 0 and 1 give m and m + σ; of equal cosines the first is sorted first
    drawn = ElasticFace(**options).strength(samples([0.0, 1.0], [0.5, 0.5]), {})
    assert drawn.tolist() == pytest.approx([published[0], sum(published)])


@pytest.mark.parametrize(("kind", "fixed"), [("arc", ArcFace(8.0, 0.5)), ("cos", CosFace(8.0, 0.35))])
def test_ElasticFace_equals_the_fixed_margin_without_sigma_or_outside_a_step(kind, fixed):
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(6, 4, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 0])
    plain = PrototypeHead(5, 4, margin=fixed, dtype=torch.float64)
    still = PrototypeHead(5, 4, margin=ElasticFace(8.0, kind, sigma=0.0), dtype=torch.float64)
    torch.testing.assert_close(still(x, labels), plain(x, labels))
    moving = PrototypeHead(5, 4, margin=ElasticFace(8.0, kind, sigma=0.3), dtype=torch.float64)
    assert abs(moving(x, labels) - plain(x, labels)) > 1e-3
    torch.testing.assert_close(moving.eval()(x, labels), plain(x, labels))
    with torch.no_grad():
        torch.testing.assert_close(moving.train()(x, labels), plain(x, labels))


def drawn_in_steps(head, steps, size=400):
    """The strengths that a head finds for a batch in each of its first steps."""
    found = []
    for step in range(steps):
        head.step_count = step
        batch = gather_batch(
            torch.ones(size, 4),
            torch.zeros(size, dtype=torch.int64),
            None,
            num_classes=head.num_classes,
            weight=head.weight,
            ranks=None,
        )
        found.append(head._sample_margins(batch, None, in_step=True).strength)
    return torch.stack(found)


def test_ElasticFace_draws_have_their_mean_and_sigma_and_follow_from_seed_and_step():
    margin = ElasticFace(margin=0.4, sigma=0.1)
    drawn = drawn_in_steps(PrototypeHead(3, 4, margin=margin, seed=1), 10)
    assert drawn.dtype == torch.float32
    # 4000 draws: a standard error of .0016 in the mean, .0011 in the deviation
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.006)
    assert float(drawn.std()) == pytest.approx(0.1, abs=0.005)
    assert len(drawn.unique()) > 3900
    assert torch.equal(drawn, drawn_in_steps(PrototypeHead(3, 4, margin=margin, seed=1), 10))
    assert not torch.equal(drawn, drawn_in_steps(PrototypeHead(3, 4, margin=margin, seed=2), 10))


def test_ElasticFace_micro_batches_have_different_draws():
    head = PrototypeHead(3, 4, margin=ElasticFace(8.0, "cos", sigma=0.1), dtype=torch.float64)
    x, labels = torch.ones(2, 4, dtype=torch.float64), torch.tensor([0, 1])
    with head.micro_batches():
        first, second = head(x, labels), head(x, labels)
    assert first != second


@given(
    st.floats(-1, 1),
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.floats(0, 0.3),
    st.sampled_from(["arc", "cos"]),
)
def test_ElasticFace_plus_orders_margins_by_cosine_and_bounds_targets(cosine, cosines, sigma, kind):
    margin = ElasticFace(kind=kind, plus=True, sigma=sigma)
    noise = torch.linspace(-2, 2, len(cosines), dtype=torch.float64).flip(0)
    drawn = margin.strength(samples(noise.tolist(), cosines), {})
    assert sorted(drawn.tolist()) == pytest.approx(sorted((margin._mean_and_sigma[0] + sigma * noise).tolist()))
    for i, a in enumerate(cosines):
        for j, b in enumerate(cosines):
            assert not (a > b and drawn[i] > drawn[j])
    target = margin.target(torch.full_like(drawn, cosine), drawn)
    assert (target <= 1.0).all()
    assert (target >= -1.0 - drawn.abs().max()).all()


@pytest.mark.parametrize("margin", [ARC, COS_PLUS], ids=["arc", "cos+"])
def test_ElasticFace_gradients_match_finite_differences(margin):
    require_numeric_gradient(margin, torch.tensor([0.3, 0.5, 0.4, 0.6, 0.45, 0.2], dtype=torch.float64))


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_ElasticFace_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(COS_PLUS if "fused" in changes else ARC, **changes), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [ARC, COS_PLUS], ids=["arc", "cos+"])
@pytest.mark.parametrize(("world", "changes"), RANKS, ids=str)
def test_ElasticFace_on_several_ranks_matches_one_process(processes, margin, world, changes):
    require_one_process(processes, world, settings(margin, **changes))


def test_ElasticFace_is_configured_by_name():
    require_named("elasticface", ElasticFace(32.0, "cos", plus=True), scale=32, kind="cos", plus=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale"),
        ({"kind": "sin"}, "kind"),
        ({"margin": -0.1}, "margin"),
        ({"sigma": math.nan}, "sigma"),
    ],
)
def test_ElasticFace_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ElasticFace(**options)


def test_ElasticFace_refuses_BroadFace():
    with pytest.raises(ValueError, match="BroadFace classifies past samples, whose norm and difficulty ElasticFace"):
        PrototypeHead(5, 4, margin=ElasticFace(), terms=[BroadFace()])
