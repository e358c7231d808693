"""Sub-centres: a class has several prototypes, and a sample is compared with the nearest."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from helpers.margin_checks import RANKS, WAYS, batch, require_definition, require_one_process, settings
from vplface import (
    EPL,
    UNPG,
    AdaFace,
    ArcFace,
    BroadFace,
    CurricularFace,
    ElasticFace,
    FusedSGD,
    Gaussian,
    MagFace,
    NormSoftmax,
    PrototypeHead,
    SeveralFeatures,
    SphereFaceR,
    Variational,
)
from vplface.config import build_config
from vplface.footprint import RunSize
from vplface.softmax import reference
from vplface.training.instruments import own_cosines

MARGINS = [
    ArcFace(8.0, 0.3),
    ArcFace(90.0, 0.3),  # too large for a sum without its maximum
    CurricularFace(8.0, 0.3),
    SphereFaceR(8.0, 1.4, "v2"),
    ElasticFace(8.0, "cos", plus=True),
    MagFace(8.0, l_a=0.1),
    AdaFace(8.0, t_alpha=0.3),
]


def run(margin=MARGINS[0], subcenters=3, **changes):
    options = {"subcenters": subcenters, **changes.pop("options", {})}
    return settings(margin, options=options, **changes)


def two_classes(**options):
    """Class 0 at 60° and 120°, class 1 at 90° and 170°; s = 2."""
    head = PrototypeHead(2, 2, margin=NormSoftmax(2.0), subcenters=2, dtype=torch.float64, **options)
    angles = torch.tensor([[60.0, 120.0], [90.0, 170.0]], dtype=torch.float64).deg2rad()
    with torch.no_grad():
        head.weight.copy_(torch.stack([angles.cos(), angles.sin()], 2) * torch.tensor([[[1.0], [7.0]], [[0.5], [2.0]]]))
    return head


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
def test_PrototypeHead_with_subcenters_matches_hand_computed_values(backend):
    # a sample at 0° is nearest to 60° and to 90°, one at 180° to 120° and to 170°
    head = two_classes(backend=backend)
    x = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    near = math.cos(math.radians(10))
    first = math.log(math.e + 1.0) - 1.0
    second = math.log(math.exp(2 * near) + math.e) - 2 * near
    assert head(x[:1], torch.tensor([0])).item() == pytest.approx(first)
    loss = head(x, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((first + second) / 2)
    head.zero_grad()
    head(x[:1], torch.tensor([0])).backward()
    assert (head.weight.grad.abs().amax(2) > 0).tolist() == [[True, False], [True, False]]


@given(st.integers(0, 999), st.integers(1, 4))
def test_margin_softmax_with_subcenters_equals_the_softmax_over_the_nearest(seed, subcenters):
    x, labels = batch(seed, size=1)
    unit = normalize(x, dim=1)
    weight = torch.randn(5, subcenters, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nearest = (normalize(weight, dim=2) @ unit[0]).argmax(1)
    found = reference.margin_softmax(unit, labels, weight, MARGINS[0])
    torch.testing.assert_close(
        found, reference.margin_softmax(unit, labels, weight[torch.arange(5), nearest], MARGINS[0])
    )


@pytest.mark.parametrize("margin", MARGINS, ids=str)
@pytest.mark.parametrize("changes", [{"fused": True}, {"operations": "torch", "subcenters": 2}], ids=str)
def test_PrototypeHead_with_subcenters_and_every_margin_matches_the_reference(margin, changes, monkeypatch):
    require_definition(run(margin, **changes), monkeypatch)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_PrototypeHead_with_subcenters_in_every_configuration_matches_the_reference(changes, monkeypatch):
    require_definition(run(**changes), monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {"variational": (0.3, 3, 1, False)},
        {"variational": (1.0, 3, 0)},
        {"variational": (0.3, 3, 1, True, SeveralFeatures(2))},
        {"variational": (0.3, 3, 1, True, Gaussian(bank=8))},
        {"options": {"terms": (UNPG(),)}},
        {"options": {"interclass_threshold": 0.3}},
        {
            "options": {"sample_rate": 0.5, "interclass_threshold": 0.3},
            "variational": (0.3, 3, 1, True, SeveralFeatures(2)),
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("fused", [False, True])
def test_PrototypeHead_with_subcenters_and_other_options_matches_the_reference(changes, fused, monkeypatch):
    require_definition(run(fused=fused, **changes), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [MARGINS[0], MARGINS[2]], ids=str)
@pytest.mark.parametrize(("world", "changes"), RANKS, ids=str)
def test_PrototypeHead_with_subcenters_on_several_ranks_matches_one_process(processes, margin, world, changes):
    require_one_process(processes, world, run(margin, **changes))


def test_PrototypeHead_with_subcenters_keeps_skipped_mass_under_filter_bound():
    heads = [
        PrototypeHead(40, 4, margin=ArcFace(16.0, 0.3), subcenters=2, dtype=torch.float64, filter_bound=bound)
        for bound in (None, 0.0, 0.3)
    ]
    x, labels = batch(0)
    gradients = []
    for head in heads:
        leaf = x.clone().requires_grad_()
        head(leaf, labels).backward()
        gradients.append((leaf.grad, head.weight.grad))
    torch.testing.assert_close(gradients[1], gradients[0])
    assert 0.0 < heads[2].skipped_mass <= 0.3


def test_PrototypeHead_injects_memory_into_the_nearest_subcenter():
    head = two_classes(variational=Variational(0.4, 2, 0))
    feature = torch.tensor([[0.0, 5.0]], dtype=torch.float64)  # at 90°: of class 1 the first is nearest
    head(feature, torch.tensor([1])).backward()
    plain = normalize(head.weight.detach(), dim=2)
    with torch.no_grad():  # of class 0 both are 30° away from it; class 0 has no memory
        u = head.variational_prototypes()
    assert torch.equal(u[0], plain[0])
    assert torch.equal(u[1, 1], plain[1, 1])
    expected = normalize(0.6 * plain[1, :1] + 0.4 * torch.tensor([[0.0, 1.0]], dtype=torch.float64), dim=1)[0]
    torch.testing.assert_close(u[1, 0], expected)
    assert head.memory.shape == (2, 2)
    assert head.coverage() == 0.5


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("rate", [1.0, 0.6])
def test_PrototypeHead_with_subcenters_backward_uses_the_memory_of_its_forward(backend, rate):
    def gradients(late):
        head = PrototypeHead(
            5,
            4,
            margin=MARGINS[0],
            subcenters=3,
            variational=Variational(0.4, 3, 0),
            backend=backend,
            sample_rate=rate,
            dtype=torch.float64,
        )
        head(*batch(0)).backward()
        head.zero_grad()
        x, labels = batch(1)
        loss = head(x.requires_grad_(), labels)
        if late:
            head(*batch(2))
            head(*batch(3))
        loss.backward()
        return x.grad, head.weight.grad

    torch.testing.assert_close(gradients(True), gradients(False), atol=1e-12, rtol=0)


def test_PrototypeHead_nearest_subcenters_do_not_depend_on_autocast():
    head = PrototypeHead(40, 16, margin=CurricularFace(8.0), subcenters=8, variational=Variational(0.3, 3, 0))
    x, labels = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), torch.arange(40)
    twin = copy.deepcopy(head)
    head(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        twin(x, labels)
        assert torch.equal(twin.state_dict()["margin_t"], head.state_dict()["margin_t"])
        injected = twin.injection.of_subcenters(twin.weight.detach()).timer
    assert torch.equal(injected, head.injection.of_subcenters(head.weight.detach()).timer)
    assert (injected > 0).sum() == 40


def test_PrototypeHead_with_subcenters_state_is_saved_loaded_and_copied():
    make = {"num_classes": 5, "embedding_dim": 4, "variational": Variational(0.3, 3, 0), "subcenters": 3}
    head = PrototypeHead(**make, optimizer=FusedSGD(0.1))
    for seed in range(3):
        head(*batch(seed, dtype=torch.float32)).backward()
    assert head.weight.shape == (5, 3, 4)
    fresh, twin = PrototypeHead(**make, seed=3), copy.deepcopy(head)
    fresh.load_state_dict(head.state_dict())
    x, labels = batch(4, dtype=torch.float32)
    assert fresh(x, labels) == head(x, labels) == twin(x, labels)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PrototypeHead(**make | {"subcenters": 2}).load_state_dict(head.state_dict())
    assert torch.equal(PrototypeHead(5, 4, subcenters=1).weight, PrototypeHead(5, 4).weight)
    assert torch.equal(PrototypeHead(9, 4, subcenters=2).weight[:5], PrototypeHead(5, 4, subcenters=2).weight)


def test_own_cosines_with_subcenters_are_those_with_the_nearest():
    head = two_classes()
    mean, memory = own_cosines(head, torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), torch.tensor([0, 0]))
    assert mean == pytest.approx(0.5)  # 60° from both
    assert memory is None


def test_build_config_and_RunSize_read_subcenters():
    base = {"name": "x", "data": {"train": "faces"}}
    assert build_config(base | {"subcenters": 3}, "x").subcenters == 3
    assert build_config(base, "x").subcenters == 1
    assert RunSize(classes=100, batch=10, subcenters=3).subcenters == 3


@pytest.mark.parametrize("term", [EPL(), BroadFace()])
def test_PrototypeHead_with_subcenters_refuses_terms_that_need_one_prototype(term):
    with pytest.raises(ValueError, match=rf"{type(term).__name__} asks for the prototype of a class, which has 2"):
        PrototypeHead(5, 4, subcenters=2, terms=[term])


def test_PrototypeHead_refuses_zero_subcenters():
    with pytest.raises(ValueError, match="subcenters must be at least 1"):
        PrototypeHead(5, 4, subcenters=0)
