"""PrototypeHead with torch's inference mode, compiler, wrappers, state loading and mixed precision."""

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

from helpers.backends import use_operations
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
from vplface.softmax.tiles import TorchTiles

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
def test_PrototypeHead_in_inference_mode_equals_no_grad_and_trains_afterwards(margin):
    head = PrototypeHead(N, D, margin=margin, variational=Variational(0.3, 3, 0))
    x, y = next(batches(1))
    head(x, y)  # is stored in the memory by the next call
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


def test_PrototypeHead_state_loaded_in_inference_mode_can_be_trained():
    source = Model()
    trained(source)
    again = Model()
    with torch.inference_mode():
        again.load_state_dict(source.state_dict())
    assert trained(again) == trained(source)


@pytest.mark.parametrize("optimizer", [None, FusedSGD(0.1)])
def test_PrototypeHead_compiled_by_torch_trains_as_uncompiled(optimizer):
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


def test_PrototypeHead_does_not_import_torch_dynamo():
    code = """
        import sys, torch
        from vplface import PrototypeHead
        PrototypeHead(5, 4)(torch.randn(2, 4), torch.tensor([0, 1])).backward()
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0


@pytest.mark.parametrize("retain", [False, True])
def test_PrototypeHead_frees_injections_after_backward_unless_the_graph_is_retained(retain):
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
        ({"optimizer": FusedSGD(0.1)}, False, "FusedSGD consumes"),
        ({}, True, "overwrites the memory"),
        ({}, False, None),
        ({"variational": None}, True, None),
    ],
)
def test_PrototypeHead_refuses_a_DistributedDataParallel_that_would_corrupt_it(processes, settings, broadcast, fault):
    answers = processes.run(_wrapped, 2, settings, broadcast)
    if fault is not None:
        assert all("DistributedDataParallel wraps" in answer and fault in answer for answer in answers)
    elif settings:
        assert answers == [[None] * 3] * 2
    else:
        assert answers[0][-1] == list(range(6))
        assert answers[1][-1] == list(range(10, 16))


def test_PrototypeHead_beside_DistributedDataParallel_trains(processes):
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
def test_FusedSGD_updates_prototypes_replaced_by_assign_or_to_empty(backend, momentum, rate, how):
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
def test_FusedSGD_leaves_frozen_prototypes_unchanged(rate):
    head = PrototypeHead(N, D, optimizer=FusedSGD(0.1), sample_rate=rate)
    head.weight.requires_grad_(False)
    before = head.weight.clone()
    for x, y in batches(2):
        head(x.requires_grad_(), y).backward()
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("start", ["auto", 1])
def test_PrototypeHead_is_unchanged_by_a_state_of_the_backbone_alone(start):
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


def test_plug_is_unchanged_by_a_state_of_the_backbone_alone():
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


def test_FusedSGD_refuses_a_loss_scaled_by_GradScaler():
    model = Model(optimizer=FusedSGD(0.1))
    before = model.head.weight.clone()
    x, y = next(batches(1))
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"multiplied by 65536 .* GradScaler"):
        scaler.scale(model(x, y)).backward()
    assert torch.equal(model.head.weight, before)
    (10 * model(x, y)).backward()
    assert not torch.equal(model.head.weight, before)


def test_TiledSoftmax_backward_inside_autocast_equals_one_outside(monkeypatch):
    use_operations(monkeypatch, TorchTiles())
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


def test_PrototypeHead_weight_does_not_depend_on_default_dtype_and_device():
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


def test_compiled_kernels_run_without_a_cache_folder():
    """As in a container with a read-only file system."""
    pytest.importorskip("numba", reason="needs vplface[train]")
    code = """
        import torch
        from numba.core import caching
        caching.CacheImpl._locator_classes = []
        from vplface import PrototypeHead
        head = PrototypeHead(5, 4, backend="tiled")
        loss = head(torch.ones(2, 4, requires_grad=True), torch.tensor([0, 1]))
        loss.backward()
        from vplface.softmax import numba_tiles
        assert not numba_tiles._mix.stats.cache_path, numba_tiles._mix.stats
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
