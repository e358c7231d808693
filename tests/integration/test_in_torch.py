"""The head in ordinary surroundings of torch: inference mode, compilers, wrappers, loaders, mixed precision."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.backends import use_tiled_softmax
from vplface import (
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    FusedSGD,
    MagFace,
    NormSoftmax,
    PrototypeHead,
    SphereFace2,
    SphereFaceR,
    Variational,
    plug,
)
from vplface.softmax import tiled

N, D = 20, 8


class Model(nn.Module):
    """A backbone and a head."""

    def __init__(self, *between: nn.Module, **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(D, D), *between)
        self.head = PrototypeHead(N, D, **{"variational": Variational(0.3, 4, 1), **settings})

    def forward(self, x, y):
        return self.head(self.net(x), y)


def batches(number: int, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(number):
        yield torch.randn(6, D, generator=g), torch.randint(N, (6,), generator=g)


def trained(model: nn.Module) -> list[tuple[float, ...]]:
    """Loss and gradients' norms of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = []
    for x, y in batches(5):
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        told.append((loss.item(), *(p.grad.norm().item() for p in model.parameters())))
        optimizer.step()
    return told


@pytest.mark.parametrize(
    "margin",
    [
        NormSoftmax(),
        ArcFace(),
        CosFace(),
        AdaFace(),
        MagFace(),
        CurricularFace(),
        SphereFace2(),
        SphereFaceR(version="v2"),
    ],
    ids=str,
)
def test_inference_mode_measures_as_no_grad_does_and_leaves_a_head_that_trains(margin):
    head = PrototypeHead(N, D, margin=margin, variational=Variational(0.3, 3, 0))
    x, y = next(batches(1))
    head(x, y)  # remembered when the next one asks
    with torch.inference_mode():
        head.coverage()
        head.eval()
        inside = head(torch.ones(6, D) * x, y)
    with torch.no_grad():
        outside = head(x, y)
    assert torch.equal(inside, outside)
    head.train()
    for x, y in batches(3):
        head(x.requires_grad_(), y).backward()
    assert head.step_count == 4


def test_a_state_loaded_in_inference_mode_can_be_trained_on():
    source = Model()
    trained(source)
    again = Model()
    with torch.inference_mode():
        again.load_state_dict(source.state_dict())
    assert trained(again) == trained(source)


@pytest.mark.parametrize("optimizer", [None, FusedSGD(0.1)])
def test_a_compiled_model_trains_as_it_does_uncompiled(optimizer):
    plain, compiled = (Model(optimizer=optimizer) for _ in range(2))
    found = []
    for model, forward in ((plain, plain), (compiled, torch.compile(compiled, backend="eager"))):
        told = []
        for x, y in batches(5):
            loss = forward(x, y)
            loss.backward()
            told.append((loss.item(), model.net[0].weight.grad.norm().item()))
        found.append((told, model.head.weight.detach(), model.head.memory))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_compiler_is_not_loaded_for_a_head():
    code = """
        import sys, torch
        from vplface import PrototypeHead
        PrototypeHead(5, 4)(torch.randn(2, 4), torch.tensor([0, 1])).backward()
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0


@pytest.mark.parametrize("retain", [False, True])
def test_a_loss_that_is_kept_keeps_no_memory_alive_once_it_is_differentiated(retain):
    head = PrototypeHead(N, D, variational=Variational(0.3, 4, 0), backend="tiled")
    kept = []
    for x, y in batches(6):
        loss = head(x.requires_grad_(), y)
        loss.backward(retain_graph=retain)
        kept.append((loss, x))
    gc.collect()
    assert (len(head.prototype_memory._injections) > 3) == retain
    if retain:
        loss, x = kept[2]
        first = x.grad.clone()
        loss.backward()
        torch.testing.assert_close(x.grad, 2 * first)


def _wrapped(group, settings, broadcast):
    sharded = settings.pop("sharded", False)
    model = Model(nn.BatchNorm1d(D), process_group=group if sharded else None, **settings)
    wrapped = DistributedDataParallel(model, process_group=group, broadcast_buffers=broadcast)
    alive = []
    for x, _ in batches(3, seed=dist.get_rank(group)):
        y = torch.arange(6) + (10 if dist.get_rank(group) else 0)
        try:
            wrapped(x, y).backward()
        except RuntimeError as error:
            return str(error)
        model.zero_grad()
        alive.append((model.head.timer > 0).nonzero().flatten().tolist() if model.head.timer is not None else None)
    return alive


@pytest.mark.parametrize(
    ("settings", "broadcast", "fault"),
    [
        ({"sharded": True}, False, "the classes of the first"),
        ({"optimizer": FusedSGD(0.1)}, False, "FusedSGD uses up"),
        ({}, True, "overwrites the memory"),
        ({}, False, None),
        ({"variational": None}, True, None),
    ],
)
def test_a_wrapper_that_would_ruin_the_head_is_refused(processes, settings, broadcast, fault):
    answers = processes.run(_wrapped, 2, settings, broadcast)
    if fault is not None:
        assert all("DistributedDataParallel wraps" in answer and fault in answer for answer in answers)
    elif settings:
        assert answers == [[None] * 3] * 2
    else:
        assert answers[0][-1] == list(range(6))
        assert answers[1][-1] == list(range(10, 16))


def test_the_head_beside_a_wrapper_is_left_alone(processes):
    assert processes.run(_beside, 2) == [3, 3]


def _beside(group):
    wrapped = DistributedDataParallel(nn.Linear(D, D), process_group=group)
    head = PrototypeHead(N, D, variational=Variational(0.3, 4, 0), process_group=group)
    for x, y in batches(3, seed=dist.get_rank(group)):
        head(wrapped(x), y).backward()
    head.coverage()
    return head.step_count


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 1.0), (0.0, 1.0), (0.9, 0.5)])
@pytest.mark.parametrize("how", ["assign", "meta"])
def test_fused_prototypes_move_whatever_tensor_has_become_of_them(backend, momentum, rate, how):
    settings = {"optimizer": FusedSGD(0.1, momentum), "sample_rate": rate, "backend": backend}
    expected = PrototypeHead(N, D, **settings)
    for x, y in batches(2):
        expected(x, y).backward()
    state = {name: value.clone() for name, value in expected.state_dict().items()}
    loaded = state["weight"].clone()
    head = PrototypeHead(N, D, device="meta" if how == "meta" else "cpu", **settings)
    if how == "meta":
        head.to_empty(device="cpu")
    head.load_state_dict(state, assign=how == "assign")
    head.optimizer.load_state_dict(copy.deepcopy(expected.optimizer.state_dict()))
    for x, y in batches(3, seed=1):
        for each in (expected, head):
            each(x, y).backward()
            each.optimizer.step()
    assert not torch.equal(head.weight, loaded)
    torch.testing.assert_close(head.weight, expected.weight)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_frozen_prototypes_do_not_move(rate):
    head = PrototypeHead(N, D, optimizer=FusedSGD(0.1), sample_rate=rate)
    head.weight.requires_grad_(False)
    before = head.weight.clone()
    for x, y in batches(2):
        head(x.requires_grad_(), y).backward()
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("start", ["auto", 1])
def test_a_state_of_the_backbone_alone_leaves_the_head_as_it_is(start):
    model = Model(variational=Variational(0.3, 4, start))
    if start == "auto":
        model.head.begin()
    trained(model)
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    backbone = {name: value for name, value in Model().state_dict().items() if name.startswith("net.")}
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert (missing, unexpected) == (["head.weight", "head.step_count"], [])
    assert model.head.memory is not None
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(RuntimeError, match=r"head\.weight.*head\.step_count"):
        model.load_state_dict(backbone)


def test_a_state_of_the_backbone_alone_leaves_a_plugged_classifier_as_it_is():
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, N, bias=False))
    handle = plug(model[1], "weight", Variational(0.3, 4, 0))
    for x, y in batches(3):
        nn.functional.cross_entropy(model(x), y).backward()
        handle.remember(model[0](x), y)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("1.")}
    model.load_state_dict({"0.weight": torch.zeros(D, D), "0.bias": torch.zeros(D)}, strict=False)
    assert handle.step_count == 3
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_scaled_loss_is_not_given_to_fused_prototypes():
    model = Model(optimizer=FusedSGD(0.1))
    before = model.head.weight.clone()
    x, y = next(batches(1))
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"multiplied by 65536 .* GradScaler"):
        scaler.scale(model(x, y)).backward()
    assert torch.equal(model.head.weight, before)
    (10 * model(x, y)).backward()
    assert not torch.equal(model.head.weight, before)


def test_a_backward_pass_inside_autocast_calculates_as_one_outside(monkeypatch):
    use_tiled_softmax(monkeypatch, tiled.TiledSoftmax)
    found = []
    for inside in (False, True):
        head = PrototypeHead(N, D, margin=ArcFace(64.0, 0.5), backend="tiled")
        x, y = next(batches(1))
        x.requires_grad_()
        with torch.autocast("cpu", torch.float16):
            loss = head(x, y)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append((x.grad, head.weight.grad))
    torch.testing.assert_close(found[1], found[0])
    assert found[0][0].isfinite().all()


def test_prototypes_do_not_depend_on_torchs_defaults():
    expected = PrototypeHead(N, D).weight.detach()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(PrototypeHead(N, D, dtype=torch.float32).weight, expected)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device("meta")
        assert torch.equal(PrototypeHead(N, D, device="cpu").weight.cpu(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_kernels_are_compiled_where_nothing_can_be_kept():
    """As in a container with a file system that is read only."""
    pytest.importorskip("numba", reason="needs vplface[train]")
    code = """
        import torch
        from numba.core import caching
        caching.CacheImpl._locator_classes = []
        from vplface import PrototypeHead
        head = PrototypeHead(5, 4, backend="tiled")
        loss = head(torch.ones(2, 4, requires_grad=True), torch.tensor([0, 1]))
        loss.backward()
        from vplface.softmax import compiled
        assert not compiled._mix.stats.cache_path, compiled._mix.stats
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
