"""Inter-class filtering: other classes that lie nearer to a sample than a threshold are left out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.margin_checks import RANKS, WAYS, batch, require_definition, require_one_process, settings
from vplface import (
    EPL,
    UNPG,
    AdaFace,
    ArcFace,
    BroadFace,
    CosFace,
    CurricularFace,
    NormSoftmax,
    PrototypeHead,
    SphereFaceR,
    X2Softmax,
)
from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.softmax import reference

MARGINS = [ArcFace(8.0, 0.3), CurricularFace(8.0, 0.3), SphereFaceR(8.0, 1.4, "v2"), AdaFace(8.0, t_alpha=0.3)]


def run(margin, threshold=0.2, **changes):
    options = {"interclass_threshold": threshold, **changes.pop("options", {})}
    return settings(margin, options=options, **changes)


def three_classes(threshold, scale=2.0, **options):
    """x at 0°, its own prototype at 60°, others at 30° and 90°."""
    head = PrototypeHead(
        3, 2, margin=NormSoftmax(scale), dtype=torch.float64, interclass_threshold=threshold, **options
    )
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, math.sqrt(3)], [math.sqrt(3), 1.0], [0.0, 2.0]]))
    return head, torch.tensor([[3.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
@pytest.mark.parametrize(("threshold", "kept"), [(None, 2), (0.9, 2), (0.8, 1), (-0.1, 0)])
def test_PrototypeHead_interclass_threshold_matches_hand_computed_values(backend, threshold, kept):
    head, x = three_classes(threshold, backend=backend)
    others = [math.exp(0.0), math.exp(2 * math.cos(math.pi / 6))][:kept]
    for training in (True, False):
        loss = head.train(training)(x, torch.tensor([0]))
        assert loss.item() == pytest.approx(math.log(math.e + sum(others)) - 1.0)
    loss.backward()
    assert (head.weight.grad.abs().amax(1) > 0).tolist() == [kept > 0, kept > 1, kept > 0]


@given(st.integers(0, 999), st.floats(-0.99, 1))
def test_margin_softmax_with_threshold_equals_the_softmax_over_the_classes_kept(seed, threshold):
    x, labels = batch(seed, size=1)
    unit = torch.nn.functional.normalize(x, dim=1)
    g = torch.Generator().manual_seed(seed)
    weight = torch.nn.functional.normalize(torch.randn(9, 4, generator=g, dtype=torch.float64), dim=1)
    kept = (unit @ weight.t() <= threshold)[0]
    kept[labels] = True
    place = kept.cumsum(0)[labels] - 1
    found = reference.margin_softmax(unit, labels, weight, ArcFace(8.0, 0.3), threshold=threshold)
    torch.testing.assert_close(found, reference.margin_softmax(unit, place, weight[kept], ArcFace(8.0, 0.3)))


@pytest.mark.parametrize("margin", MARGINS, ids=str)
@pytest.mark.parametrize("changes", [{"fused": True}, {"operations": "torch"}], ids=str)
def test_PrototypeHead_interclass_threshold_with_every_margin_matches_the_reference(margin, changes, monkeypatch):
    require_definition(run(margin, **changes), monkeypatch)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_PrototypeHead_interclass_threshold_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(run(MARGINS[0], **changes), monkeypatch)


def test_PrototypeHead_interclass_threshold_with_terms_matches_the_reference(monkeypatch):
    require_definition(run(MARGINS[1], options={"terms": (UNPG(), EPL(start=1))}), monkeypatch)
    past = {"options": {"terms": (BroadFace(size=7, start=0),)}, "variational": None}
    require_definition(run(MARGINS[2], **past), monkeypatch)


def test_PrototypeHead_interclass_threshold_combines_with_filter_bound(monkeypatch):
    require_definition(run(MARGINS[0], fused=True), monkeypatch)
    heads = [PrototypeHead(5, 4, margin=MARGINS[0], interclass_threshold=0.2, filter_bound=b) for b in (None, 0.0)]
    x, labels = batch(0, dtype=torch.float32)
    for head in heads:
        head(x, labels).backward()
    torch.testing.assert_close(heads[1].weight.grad, heads[0].weight.grad)


@pytest.mark.slow
@pytest.mark.parametrize("margin", MARGINS[:2], ids=str)
@pytest.mark.parametrize(("world", "changes"), RANKS, ids=str)
def test_PrototypeHead_interclass_threshold_on_several_ranks_matches_one_process(processes, margin, world, changes):
    require_one_process(processes, world, run(margin, **changes))


@pytest.mark.parametrize(
    "margin", [ArcFace(64.0), X2Softmax(64.0, a=-3.0), CosFace(200.0), CurricularFace(64.0)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_PrototypeHead_interclass_threshold_gives_a_sample_without_others_no_gradient(margin, dtype):
    """The only class left is its own, on the opposite side: an exponential too small to divide by."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype).requires_grad_()
    weight = torch.tensor([[-1.0, 1e-3], [0.9, 0.1], [0.8, 0.2]], dtype=dtype)
    for backend in ("reference", "tiled", "triton"):
        head = PrototypeHead(3, 2, margin=margin, dtype=dtype, backend=backend, interclass_threshold=0.5)
        with torch.no_grad():
            head.weight.copy_(weight)
        (gradient,) = torch.autograd.grad(head(x, torch.tensor([0, 0])), x)
        assert gradient.isfinite().all()
        assert gradient[0].abs().max() == 0.0
        assert gradient[1].abs().max() > 0.0


def test_build_config_reads_interclass_threshold():
    base = {"name": "x", "data": {"train": "faces"}}
    assert build_config(base, "x").interclass_threshold is None
    assert build_config(base | {"interclass_threshold": 0.4}, "x").interclass_threshold == 0.4
    with pytest.raises(ConfigError, match="interclass_threshold"):
        build_config(base | {"interclass_threshold": 1.5}, "x")


@pytest.mark.parametrize("threshold", [-1.0, 1.01, math.nan])
def test_PrototypeHead_refuses_an_interclass_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="interclass_threshold must be a cosine"):
        PrototypeHead(5, 4, interclass_threshold=threshold)
