"""MagFace: margins that grow with the feature norm, and the penalty that makes norms larger."""

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
    settings,
)
from vplface import EPL, UNPG, ArcFace, MagFace, PrototypeHead
from vplface.margins import Samples

MARGIN = MagFace(8.0, lambda_g=20.0)


def samples(*norms):
    return Samples(torch.tensor(norms, dtype=torch.float64), pytest.fail, pytest.fail)  # must not be called


def test_MagFace_strength_matches_hand_computed_values():
    # .45 at 10, .8 at 110, .45 + .35·(60 − 10)/100 = .625 at 60; cut off outside
    found = MagFace().strength(samples(10.0, 60.0, 110.0, 1.0, 500.0), {})
    assert found.tolist() == pytest.approx([0.45, 0.625, 0.8, 0.45, 0.8])
    assert float(MagFace().target(torch.zeros(1))) == pytest.approx(math.cos(math.pi / 2 + 0.625))


def test_MagFace_penalty_matches_a_hand_computed_value():
    # g(20) = 1/20 + 20/110², g(1) = g(10) = .1 + 10/110²
    norms = torch.tensor([20.0, 1.0], dtype=torch.float64)
    expected = 35.0 * ((0.05 + 20 / 12100) + (0.1 + 10 / 12100)) / 2
    assert float(MagFace().penalty(norms)) == pytest.approx(expected)


@given(st.floats(10, 109))
def test_MagFace_penalty_falls_up_to_the_longest_norm(norm):
    def at(a):
        return float(MagFace().penalty(torch.tensor([a], dtype=torch.float64)))

    assert at(norm + 1) < at(norm)
    assert at(110.0) == at(300.0) == pytest.approx(35 * 2 / 110)


def naive(xs, labels, weight, margin):
    """Sample by sample in numpy, by the angle itself."""
    total = 0.0
    for x, label in zip(xs, labels, strict=True):
        a = min(max(float(np.linalg.norm(x)), margin.l_a), margin.u_a)
        m = margin.l_m + (margin.u_m - margin.l_m) * (a - margin.l_a) / (margin.u_a - margin.l_a)
        cosines = weight @ x / np.linalg.norm(weight, axis=1) / np.linalg.norm(x)
        theta = np.arccos(cosines[label])
        cosines[label] = np.cos(theta + m) if theta <= np.pi - m else np.cos(theta) - m * np.sin(m)
        total += np.log(np.exp(margin.scale * (cosines - cosines[label])).sum())
        total += margin.lambda_g * (1 / a + a / margin.u_a**2)
    return total / len(xs)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("training", [True, False])
def test_MagFace_losses_match_a_numpy_implementation_of_the_paper(backend, training):
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64, backend=backend).train(training)
    for seed in range(4):
        x, labels = batch(seed, length=40.0)
        expected = naive(x.numpy(), labels.numpy(), head.weight.detach().numpy(), MARGIN)
        assert head(x, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_MagFace_gradients_of_embeddings_of_any_norm_match_finite_differences(backend):
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64, backend=backend).eval()
    x, labels = batch(0, length=20.0)
    x[0] *= 0.1 / 20  # shorter than l_a: its length has no gradient
    x[1] *= 30  # longer than u_a
    assert torch.autograd.gradcheck(lambda x: head(x, labels), x.requires_grad_())
    head(x, labels).backward()
    along = (x.grad * x).sum(1).detach()
    torch.testing.assert_close(along[:2], torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (along[2:].abs() > 1e-6).all()


@pytest.mark.slow
def test_MagFace_gives_easy_samples_longer_norms():
    """Only the norms are trained, of a sample on its prototype and of one near the border: the paper's lemma."""
    head = PrototypeHead(2, 2, margin=MagFace(16.0), dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    directions = torch.tensor([[1.0, 0.05], [1.0, 0.5]], dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    lengths = torch.full((2, 1), 40.0, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD([lengths], 300.0)
    for _ in range(400):
        optimizer.zero_grad()
        head(lengths * directions, torch.tensor([0, 0])).backward()
        optimizer.step()
    easy, hard = lengths.detach().flatten().tolist()
    assert easy > hard + 10


def test_MagFace_with_one_margin_for_all_norms_equals_ArcFace():
    x, labels = batch(0, length=20.0)
    plain = PrototypeHead(5, 4, margin=ArcFace(8.0, 0.5), dtype=torch.float64)
    same = PrototypeHead(5, 4, margin=MagFace(8.0, l_m=0.5, u_m=0.5, lambda_g=0.0), dtype=torch.float64)
    torch.testing.assert_close(same(x, labels), plain(x, labels))


def test_MagFace_gradients_match_finite_differences():
    require_numeric_gradient(MARGIN, torch.tensor([0.45, 0.5, 0.8, 0.6, 0.45, 0.7], dtype=torch.float64))


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_MagFace_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(MARGIN, length=40.0, **changes), monkeypatch)


@pytest.mark.parametrize("changes", [{}, {"fused": True}], ids=str)
def test_MagFace_with_terms_matches_the_reference(changes, monkeypatch):
    options = {"options": {"terms": (UNPG(), EPL(start=1))}}
    require_definition(settings(MARGIN, length=40.0, **options, **changes), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "changes"), [*RANKS, (2, {"parts": 2, "batch": 8, "sizes": [4, 4]})], ids=str)
def test_MagFace_on_several_ranks_matches_one_process(processes, world, changes):
    require_one_process(processes, world, settings(MARGIN, length=40.0, **changes))


def test_MagFace_micro_batches_equal_one_step():
    whole, parts = (PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64) for _ in range(2))
    x, labels = batch(0, length=40.0)
    with parts.micro_batches():
        losses = [parts(x[part], labels[part]) / 2 for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(losses), whole(x, labels))


def test_MagFace_is_configured_by_name():
    require_named("magface", MagFace(32.0, lambda_g=20.0), scale=32, lambda_g=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale"),
        ({"l_a": 0.0}, "0 < l_a < u_a"),
        ({"l_a": 120.0}, "0 < l_a < u_a"),
        ({"l_m": 0.9}, "l_m ≤ u_m"),
        ({"u_m": 2.0}, "π/2"),
        ({"lambda_g": -1.0}, "lambda_g"),
    ],
)
def test_MagFace_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MagFace(**options)
