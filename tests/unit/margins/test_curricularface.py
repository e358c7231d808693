"""CurricularFace: hard negatives reweighted by how far training has come."""

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
from vplface import ArcFace, CurricularFace, PrototypeHead

MARGIN = CurricularFace(8.0, 0.4, t_alpha=0.3)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_CurricularFace_negative_matches_hand_computed_values():
    # t_i = .2, t = .5: .1 is easy; .4 → .4·.9 = .36; .9 → .9·1.4 = 1.26; .2 is not nearer than the target
    found = CurricularFace().negative(column(0.1, 0.4, 0.9, 0.2), column(0.2), column(0.5))
    assert found.tolist() == pytest.approx([0.1, 0.36, 1.26, 0.2])
    # t_i = −.8, t = .3: −.5·(.3 − .5) = .1
    assert CurricularFace().negative(column(-0.5), column(-0.8), column(0.3)).tolist() == pytest.approx([0.1])
    assert CurricularFace().negative(column(0.4), column(0.2), None).tolist() == pytest.approx([0.16])


def test_CurricularFace_negative_derivative_matches_hand_computed_values():
    # 1 where easy, t + 2cosθ where hard
    cosine = column(0.1, 0.4, 0.9).requires_grad_()
    value = CurricularFace().negative(cosine, column(0.2), column(0.5))
    assert torch.autograd.grad(value.sum(), cosine)[0].tolist() == pytest.approx([1.0, 1.3, 2.3])


def test_CurricularFace_loss_matches_a_hand_computed_value():
    # x at 0°, its prototype at 60°, m = 0, so t_i = .5; the others at 30° (hard) and 90° (easy); α = 1, so t = .5
    head = PrototypeHead(3, 2, margin=CurricularFace(2.0, 0.0, t_alpha=1.0), dtype=torch.float64)
    near = math.cos(math.pi / 6)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, math.sqrt(3)], [math.sqrt(3), 1.0], [0.0, 2.0]]))
    loss = head(torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
    expected = math.log(math.exp(1.0) + math.exp(2 * near * (0.5 + near)) + 1.0) - 1.0
    assert loss.item() == pytest.approx(expected)
    assert float(head.state_dict()["margin_t"]) == pytest.approx(0.5)


def naive(xs, labels, weight, margin, t):
    """The loss of a batch and the new t, sample by sample in numpy."""
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    rows = [unit @ x / np.linalg.norm(x) for x in xs]
    t += margin.t_alpha * (np.mean([row[label] for row, label in zip(rows, labels, strict=True)]) - t)
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        own = float(ArcFace(margin=margin.margin).target(torch.tensor([row[label]]))[0])
        logits = [own if j == label else c * (t + c) if c > own else c for j, c in enumerate(row)]
        total += math.log(sum(math.exp(margin.scale * (logit - own)) for logit in logits))
    return total / len(xs), t


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_CurricularFace_losses_match_a_numpy_implementation_of_the_paper(backend):
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64, backend=backend)
    t = 0.0
    for seed in range(5):
        x, labels = batch(seed)
        expected, t = naive(x.numpy(), labels.numpy(), head.weight.detach().numpy(), MARGIN, t)
        assert head(x, labels).item() == pytest.approx(expected, rel=1e-12)
        assert float(head.state_dict()["margin_t"]) == pytest.approx(t, rel=1e-12)


def test_CurricularFace_in_eval_uses_t_and_leaves_it_unchanged():
    head = PrototypeHead(5, 4, margin=MARGIN, dtype=torch.float64)
    x, labels = batch(0)
    head(x, labels)
    t = float(head.state_dict()["margin_t"])
    frozen = CurricularFace(8.0, 0.4, t_alpha=1e-12)
    expected, _ = naive(x.numpy(), labels.numpy(), head.weight.detach().numpy(), frozen, t)
    assert head.eval()(x, labels).item() == pytest.approx(expected, rel=1e-9)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_CurricularFace_negative_stays_within_the_bound(cosine, own, t):
    margin = CurricularFace()
    value = float(margin.negative(column(cosine), margin.target(column(own)), column(t)))
    assert -1.0 <= value <= margin.bound
    assert float(margin.negative(column(1.0), column(0.9), column(1.0))) == margin.bound


@pytest.mark.parametrize("scale", [39.0, 41.0, 64.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_CurricularFace_with_hard_negatives_neither_overflows_nor_underflows(scale, dtype):
    """t is near 1 and another class lies on the sample: its logit reaches the bound, 2s."""
    margin, found = CurricularFace(scale, 0.5, t_alpha=1.0), []
    x = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [0.0, 1.0]], dtype=dtype)
    for backend in ("reference", "tiled"):
        head = PrototypeHead(3, 2, margin=margin, dtype=dtype, backend=backend)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1e-4], [-1.0, 0.0]]))
        leaf = x.clone().requires_grad_()
        loss = head(leaf, torch.tensor([0, 1, 2]))
        loss.backward()
        found.append((loss.detach(), leaf.grad, head.weight.grad))
    assert all(part.isfinite().all() for part in found[1])
    torch.testing.assert_close(found[1], found[0], atol=1e-4 if dtype == torch.float32 else 1e-9, rtol=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.6, -0.4])
def test_CurricularFace_gradients_match_finite_differences(t):
    require_numeric_gradient(MARGIN, torch.full((6,), t, dtype=torch.float64), strength_is_constant=True)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_CurricularFace_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(settings(MARGIN, **changes), monkeypatch)


@pytest.mark.parametrize("changes", [{}, {"fused": True}, {"operations": "torch"}], ids=str)
def test_CurricularFace_at_a_large_scale_matches_the_reference(changes, monkeypatch):
    require_definition(settings(CurricularFace(64.0), **changes), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "changes"), RANKS, ids=str)
def test_CurricularFace_on_several_ranks_matches_one_process(processes, world, changes):
    require_one_process(processes, world, settings(MARGIN, **changes))


@pytest.mark.slow
def test_CurricularFace_at_a_large_scale_on_three_ranks_matches_one_process(processes):
    require_one_process(processes, 3, settings(CurricularFace(64.0), classes=5))


def test_CurricularFace_state_is_saved_loaded_copied_and_moved():
    require_state(MARGIN)


def test_CurricularFace_learns_once_from_all_micro_batches_of_a_step():
    require_parts_leave_what_the_whole_leaves(MARGIN)


def test_CurricularFace_is_configured_by_name():
    require_named("curricularface", CurricularFace(32.0, t_alpha=0.1), scale=32, t_alpha=0.1)


def test_CurricularFace_refuses_filter_bound():
    with pytest.raises(ValueError, match=r"filter_bound.*CurricularFace"):
        PrototypeHead(5, 4, margin=MARGIN, filter_bound=0.1)


@pytest.mark.parametrize(
    ("options", "message"), [({"scale": 0.0}, "scale"), ({"margin": -0.1}, "margin"), ({"t_alpha": 0.0}, "t_alpha")]
)
def test_CurricularFace_refuses_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        CurricularFace(**options)
