"""Every kind of memory in the head: the same on all backends and in micro-batches, saved and loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

from helpers.backends import operations_named, use_operations
from helpers.grids import INTERPRETED
from vplface import (
    ArcFace,
    BorrowedSpread,
    FusedSGD,
    Gaussian,
    LastFeature,
    PrototypeHead,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    Variational,
    VonMisesFisher,
)
from vplface.softmax import tiles
from vplface.training.instruments import own_cosines

KINDS = [
    RunningMean(0.7),
    SeveralFeatures(3),
    Gaussian(bank=16),
    VonMisesFisher(bank=16),
    BorrowedSpread(bank=16),
    ShuffledMemory(),
]
CLASSES, DIM = 13, 6


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return request.param


@pytest.fixture(params=["torch", "numba", pytest.param("triton", marks=INTERPRETED)])
def implementation(request, monkeypatch):
    """The tiled softmax in tiles of a few classes, by each implementation."""
    monkeypatch.setattr(tiles, "TILE", {"cpu": 24})
    use_operations(monkeypatch, operations_named(request.param))


def make(kind, delta_t=3, start=1, **settings):
    options = {"margin": ArcFace(16.0, 0.3), "dtype": torch.float64, "backend": "tiled", **settings}
    return PrototypeHead(CLASSES, DIM, variational=Variational(0.3, delta_t, start, memory=kind), **options)


def batch(step, size=9, dtype=torch.float64):
    """Noisy samples of few classes, so that memories are alive and have seen several."""
    g = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES // 2, (size,), generator=g)
    labels[0] = CLASSES - 1
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = centres[labels] + 0.7 * torch.randn(size, DIM, generator=g, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), labels


def state_of(head):
    return {name: value.clone() for name, value in head.state_dict().items()}


def require_same_state(a, b, **tolerance):
    a, b = state_of(a), state_of(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **(tolerance or {"atol": 1e-12, "rtol": 1e-10}), msg=name)


@pytest.mark.parametrize(("sample_rate", "renormalise"), [(1.0, True), (0.5, False)])
def test_PrototypeHead_fused_and_tiled_matches_the_reference_for_every_memory(
    kind, implementation, sample_rate, renormalise
):
    variational = Variational(0.3, 3, 1, renormalise, kind)
    options = {"margin": ArcFace(16.0, 0.3), "variational": variational, "dtype": torch.float64}
    definition = PrototypeHead(CLASSES, DIM, backend="reference", sample_rate=sample_rate, **options)
    fused = PrototypeHead(CLASSES, DIM, backend="tiled", sample_rate=sample_rate, optimizer=FusedSGD(0.1), **options)
    optimizer = torch.optim.SGD(definition.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(6):
        found = []
        optimizer.zero_grad()
        for head in (definition, fused):
            x, labels = batch(step)
            loss = head(x, labels)
            loss.backward()
            found.append((loss.detach(), x.grad))
        if sample_rate == 1.0:
            optimizer.step()
        else:  # FusedSGD leaves alone what was not drawn
            with torch.no_grad():
                definition.weight.copy_(fused.weight)
        torch.testing.assert_close(found[0], found[1], atol=1e-11, rtol=1e-9)
    require_same_state(definition, fused, atol=1e-11, rtol=1e-9)


def test_PrototypeHead_variational_prototypes_give_the_loss_of_the_next_step(kind):
    """The loss computed from ``variational_prototypes`` is that of the next step."""
    head = make(kind)
    for step in range(5):
        head(*batch(step)).backward()
    u = head.variational_prototypes()
    v = normalize(head.weight, dim=1)
    assert ((u - v).norm(dim=1) > 1e-3).sum() >= 4
    x, labels = batch(9)
    cosines = normalize(x, dim=1) @ u.t()
    own = torch.arange(len(labels)), labels
    logits = 16.0 * cosines.index_put(own, head.margin.target(cosines[own]))
    torch.testing.assert_close(head(x, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_PrototypeHead_backward_uses_the_memory_of_its_forward_for_every_kind(kind, implementation):
    """Three losses are formed before any is differentiated; each step changes the memory."""
    found = []
    for backend in ("reference", "tiled"):
        head = make(kind, backend=backend)
        for step in range(3):
            head(*batch(step)).backward()
        head.zero_grad()
        leaves = [batch(step) for step in range(3, 6)]
        losses = [head(x, labels) for x, labels in leaves]
        for loss in reversed(losses):
            loss.backward()
        found.append([head.weight.grad, *(x.grad for x, _ in leaves)])
        assert head.step_count == 6
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-10)


def test_PrototypeHead_micro_batches_equal_one_step_for_every_memory(kind):
    whole, parts = make(kind), make(kind)
    for step in range(5):
        x, labels = batch(step)
        whole(x, labels).backward()
        with parts.micro_batches():
            for piece in (slice(0, 2), slice(2, 9)):
                (parts(x[piece].detach(), labels[piece]) * (len(labels[piece]) / 9)).backward()
    torch.testing.assert_close(whole.weight.grad, parts.weight.grad, atol=1e-12, rtol=1e-10)
    require_same_state(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "memory_dtype"),
    [(torch.float32, None), (torch.float32, torch.bfloat16), (torch.bfloat16, None)],
    ids=str,
)
@pytest.mark.parametrize("kind", [SeveralFeatures(3), Gaussian(bank=16)], ids=str)
def test_PrototypeHead_tiled_in_low_precision_stays_close_to_the_reference(kind, implementation, dtype, memory_dtype):
    found = []
    for backend in ("reference", "tiled"):
        head = make(kind, dtype=dtype, memory_dtype=memory_dtype, backend=backend)
        for step in range(5):
            x, labels = batch(step, dtype=dtype)
            loss = head(x, labels)
            loss.backward()
        assert head.memory.dtype == (memory_dtype or dtype)
        found.append((loss.detach().double(), x.grad.double()))
    tolerance = 1e-4 if dtype == torch.float32 else 0.06
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= tolerance * a.norm()


def test_PrototypeHead_has_no_memory_before_the_start_and_writes_none_in_eval(kind):
    head = make(kind, start=2)
    for step in range(2):
        assert head.memory is None
        head(*batch(step)).backward()
        assert set(head.state_dict()) == {"weight", "step_count"}
    for step in range(2, 5):
        head(*batch(step)).backward()
    before = state_of(head)
    plain = PrototypeHead(CLASSES, DIM, margin=head.margin, dtype=torch.float64)
    plain.load_state_dict({"weight": head.weight.detach(), "step_count": torch.tensor(0)})
    head.eval()
    torch.testing.assert_close(head(*batch(7)), plain(*batch(7)))
    with torch.no_grad():
        head.train()(*batch(8))
    after = state_of(head)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert 0 < head.coverage() < 1
    own = own_cosines(head, *batch(9))
    assert -1 <= own[1] <= 1


def test_PrototypeHead_state_dict_and_deepcopy_train_on_like_the_original(kind):
    head = make(kind)
    for step in range(6):
        head(*batch(step)).backward()
    fresh = make(kind)
    fresh.load_state_dict(state_of(head))
    twin = copy.deepcopy(head)
    for step in range(6, 10):
        losses = [each(*batch(step)) for each in (head, fresh, twin)]
        assert losses[0] == losses[1] == losses[2]
        for loss in losses:
            loss.backward()
    require_same_state(head, fresh, atol=0, rtol=0)


def test_PrototypeHead_load_state_dict_refuses_another_kind_of_memory(kind):
    head, last = make(kind), make(LastFeature())
    for each in (head, last):
        for step in range(3):
            each(*batch(step)).backward()
    name = type(kind).__name__
    with pytest.raises(RuntimeError, match=rf"memory of the kind {name}, this module has .*LastFeature"):
        make(LastFeature()).load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match=rf"memory of the kind LastFeature, this module has .*{name}"):
        make(kind).load_state_dict(last.state_dict())
    early = make(kind)
    early.load_state_dict(make(LastFeature()).state_dict())  # from before the start: there is no memory yet
    assert early.memory is None


def test_PrototypeHead_state_dict_with_LastFeature_has_no_further_keys():
    head = make(LastFeature())
    for step in range(3):
        head(*batch(step)).backward()
    assert set(head.state_dict()) == {"weight", "memory", "timer", "step_count"}


def test_PrototypeHead_load_state_dict_refuses_other_shapes_and_missing_statistics():
    head = make(SeveralFeatures(3))
    for step in range(3):
        head(*batch(step)).backward()
    with pytest.raises(RuntimeError, match="size mismatch for memory"):
        make(SeveralFeatures(2)).load_state_dict(head.state_dict())
    spread = make(Gaussian())
    for step in range(3):
        spread(*batch(step)).backward()
    state = state_of(spread)
    del state["memory_count"]
    with pytest.raises(RuntimeError, match="memory_count"):
        make(Gaussian()).load_state_dict(state)


def test_PrototypeHead_cast_keeps_the_dtype_of_memory_statistics():
    head = make(Gaussian(), dtype=torch.float32)
    for step in range(3):
        head(*batch(step, dtype=torch.float32)).backward()
    head.bfloat16()
    assert head.memory.dtype == torch.bfloat16
    assert head.memory_count.dtype == head.memory_bank.dtype == torch.float32
    assert head.to("meta").memory_count.device.type == "meta"


def test_ShuffledMemory_injects_another_class_with_the_same_coverage():
    """Every class but one is seen; each row holds the feature of another class."""
    head, last = make(ShuffledMemory(), start=0), make(LastFeature(), start=0)
    x = torch.randn(CLASSES - 1, DIM, dtype=torch.float64)
    for each in (head, last):
        each(x, torch.arange(CLASSES - 1)).backward()
    assert head.coverage() == last.coverage() == (CLASSES - 1) / CLASSES
    same = head.memory @ normalize(x, dim=1).t() > 1 - 1e-9
    row, source = same.nonzero().t()
    assert source.sort().values.tolist() == list(range(CLASSES - 1))
    assert (row != source).all()
