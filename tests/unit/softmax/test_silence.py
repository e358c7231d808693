"""A tiled step on a device that the host does not wait for: it reads nothing there and computes the same."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("triton", reason="needs vplface[triton]")

from helpers.heads import READING, SILENT, made_silent, optimizers_of, take_step
from helpers.recorded_ranks import GROUP, recorded_ranks
from helpers.silence import Recorded, Started
from vplface import FusedSGD, clip_grad_norm_, devices
from vplface.prototypes import CosineByAge
from vplface.prototypes.batch import DegenerateEmbeddingError
from vplface.softmax import triton_tiles

N, D, B = 37, 6, 9


def made(options, classes=N, dim=D, **more):
    return made_silent(options, classes, dim, **more)


@pytest.fixture
def launches(monkeypatch):
    """Names of kernels, and of torch's update, that would have been launched."""
    names = []
    for name in ("_mix", "_exponentiate", "_project"):
        assert hasattr(triton_tiles, name)
        monkeypatch.setattr(triton_tiles, name, Recorded(name, names))
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *tensors, **options: names.append("sgd"))  # not made for meta
    return names


def take_meta_steps(options, **more):
    head = made({"backend": "triton", **options}, 1000, 24, device="meta", **more)
    optimizers = optimizers_of(head)
    for step in range(3):
        with Started() as started:
            embeddings = torch.empty(64, 24, device="meta", requires_grad=True)
            take_step(head, optimizers, embeddings, torch.empty(64, dtype=torch.int64, device="meta"))
        assert head.step_count == step + 1
    return started.operations


@pytest.mark.parametrize("options", SILENT.values(), ids=SILENT)
def test_PrototypeHead_reads_nothing_in_a_tiled_step(options, launches):
    assert take_meta_steps(options).total() > 0
    assert "_mix" in launches or options.get("backend") == "tiled"


@pytest.mark.parametrize("options", SILENT.values(), ids=SILENT)
def test_PrototypeHead_on_ranks_reads_nothing_in_a_tiled_step(options, launches):
    with recorded_ranks() as collectives:
        take_meta_steps(options, process_group=GROUP)
    assert collectives["all_gather"] == collectives["reduce_scatter"] == 3
    assert collectives["agree"] == 1


@pytest.mark.parametrize("options", READING.values(), ids=READING)
def test_PrototypeHead_reads_where_the_documentation_says_so(options, launches):
    with pytest.raises((AssertionError, NotImplementedError)):
        take_meta_steps(options)


@pytest.fixture
def only_rank():
    """A group of one process, whose collectives are those of a GPU."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET=0")
@pytest.mark.parametrize("ranks", [None, "only_rank"])
@pytest.mark.parametrize("options", SILENT.values(), ids=SILENT)
def test_PrototypeHead_waits_for_no_GPU_in_a_tiled_step(options, ranks, request):
    group = None if ranks is None else request.getfixturevalue(ranks)
    head = made({"backend": "triton", **options}, 1000, 24, device="cuda", process_group=group)
    optimizers = optimizers_of(head)
    for step in range(4):
        embeddings = torch.randn(64, 24, device="cuda", requires_grad=True)
        labels = torch.randint(1000, (64,), device="cuda")
        torch.cuda.set_sync_debug_mode("default" if step < 2 else "error")
        try:
            take_step(head, optimizers, embeddings, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert head.last_fault() is None


@pytest.fixture
def silent(monkeypatch):
    """The CPU as a device that the host does not wait for."""
    monkeypatch.setattr(devices, "reading_waits", lambda device: True)


def batch(step, dtype=torch.float64):
    """Samples of few classes, several of them twice or more."""
    g = torch.Generator().manual_seed(step)
    labels = torch.randint(N // 3, (B,), generator=g)
    labels[-1] = labels[0]
    centres = torch.randn(N, D, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (centres[labels] + 0.7 * torch.randn(B, D, generator=g, dtype=torch.float64)).to(dtype), labels


def trajectory(options, backend, steps=6):
    """Losses, gradients of embeddings, agreement by age, and the state at the end."""
    head = made({"dtype": torch.float64, **options}, backend=backend)
    head.by_age = CosineByAge()
    optimizers, found = optimizers_of(head), []
    for step in range(steps):
        embeddings, labels = batch(step, head.weight.dtype)
        loss = take_step(head, optimizers, embeddings.requires_grad_(), labels)
        found += [loss, embeddings.grad]
    return found, dict(head.state_dict()), head.cosine_by_age(), [each.state_dict() for each in optimizers]


@pytest.mark.parametrize("options", {**SILENT, **READING}.values(), ids={**SILENT, **READING})
def test_PrototypeHead_on_a_silent_device_is_the_definition(options, monkeypatch):
    options = {key: value for key, value in options.items() if key != "backend"}
    without_definition = "filter_bound" in options or "dtype" in options
    definition = trajectory(options, "tiled" if without_definition else "reference")
    monkeypatch.setattr(devices, "reading_waits", lambda device: True)
    torch.testing.assert_close(trajectory(options, "tiled"), definition, atol=1e-10, rtol=1e-8)


def take_step_in_parts(head, parts):
    head.optimizer.zero_grad()
    with head.micro_batches():
        for embeddings, labels in parts:
            head(embeddings, labels).backward()
    clip_grad_norm_([], 5.0, head=head)
    head.optimizer.step()


HELD = {"sample_rate": 0.2, "optimizer": FusedSGD(0.1, in_backward=False)}


def test_PrototypeHead_reads_nothing_in_a_step_of_several_parts(launches):
    head = made(HELD, 1000, 24, device="meta", backend="triton")
    for step in range(3):
        parts = [(torch.empty(8, 24, device="meta"), torch.empty(8, dtype=torch.int64, device="meta"))] * 2
        with Started():
            take_step_in_parts(head, parts)
        assert head.step_count == step + 1


def test_PrototypeHead_on_a_silent_device_adds_up_the_rows_that_parts_draw(monkeypatch):
    found = []
    for waits in (False, True):
        monkeypatch.setattr(devices, "reading_waits", lambda device, waits=waits: waits)
        head = made({**HELD, "dtype": torch.float64}, backend="tiled")
        for step in range(4):
            take_step_in_parts(head, [batch(2 * step), batch(2 * step + 1)])
        found.append([dict(head.state_dict()), head.optimizer.state_dict()])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-10)


def test_PrototypeHead_on_a_silent_device_remembers_after_backward(silent):
    head, plain = made({}), made({"optimizer": None})
    for step in range(3):
        embeddings, labels = batch(step, torch.float32)
        head(embeddings, labels).backward()
        assert head.step_count == step + 1
        assert (head.timer[labels] == 3).all()
        torch.testing.assert_close(head.memory[labels[-1]], torch.nn.functional.normalize(embeddings, dim=1)[-1])
    with plain.micro_batches():
        for step in range(2):
            plain(*batch(step, torch.float32))
    assert plain.step_count == 1
    assert plain.coverage() == len(torch.cat([batch(step)[1] for step in range(2)]).unique()) / N


def test_PrototypeHead_on_a_silent_device_sees_the_memory_of_its_forward(silent, monkeypatch):
    """Three losses are formed before any is differentiated; each step changes the memory."""
    found = []
    for waits in (True, False):
        monkeypatch.setattr(devices, "reading_waits", lambda device, waits=waits: waits)
        head = made({"optimizer": None, "dtype": torch.float64})
        embeddings = [batch(step)[0].requires_grad_() for step in range(3)]
        losses = [head(each, batch(step)[1]) for step, each in enumerate(embeddings)]
        for loss in losses:
            loss.backward()
        found.append([head.weight.grad, *(each.grad for each in embeddings), head.memory, head.timer])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-10)


def state_of(head):
    held = {} if head.optimizer is None else head.optimizer.state[head.weight]
    return copy.deepcopy([dict(head.state_dict()) | {"step_count": 0}, dict(held)])


def spoiled(kind):
    embeddings, labels = batch(7, torch.float32)
    if kind == "label":
        labels[3] = N
    else:
        embeddings[3] = {"NaN": torch.nan, "infinite": torch.inf, "zero": 0.0}[kind]
    return embeddings.requires_grad_(), labels


FAULTS = {
    "label": (ValueError, "label of sample 3"),
    "NaN": (DegenerateEmbeddingError, "embeddings of sample 3 is NaN or infinite"),
    "infinite": (DegenerateEmbeddingError, "embeddings of sample 3 is NaN or infinite"),
    "zero": (DegenerateEmbeddingError, "embeddings of sample 3 is zero"),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("FusedSGD", "triton"),
        *(
            (each, "tiled")
            for each in ("FusedSGD", "a gradient that is held", "bfloat16", "AdaFace", "Gaussian", "XBM")
        ),
    ],
)
def test_Faults_of_a_tiled_step_leave_the_state_and_are_raised_by_the_next(name, backend, kind, silent):
    head = made(SILENT[name], backend=backend)
    optimizers = [] if head.optimizer is None else [head.optimizer]
    for step in range(2):
        take_step(head, optimizers, *batch(step, torch.float32))
    before = state_of(head)
    embeddings, labels = spoiled(kind)
    assert take_step(head, optimizers, embeddings, labels).isnan()
    assert not embeddings.grad.any()
    torch.testing.assert_close(state_of(head), before, atol=0, rtol=0)
    error, message = FAULTS[kind]
    with pytest.raises(error, match=f"step 2.*{message}"):
        head(*batch(3, torch.float32))
    torch.testing.assert_close(state_of(head), before, atol=0, rtol=0)
    take_step(head, optimizers, *batch(3, torch.float32))
    assert not torch.equal(head.weight, before[0]["weight"])


def test_Faults_of_a_tiled_step_give_torchs_optimisers_a_gradient_of_zero(silent):
    head = made({"optimizer": None}, backend="tiled")
    embeddings, labels = spoiled("NaN")
    head(embeddings, labels).backward()
    assert not head.weight.grad.any()
    assert head.coverage() == 0.0
    assert isinstance(head.last_fault(), DegenerateEmbeddingError)
    assert head.last_fault() is None
    head(*batch(1, torch.float32)).backward()
    assert head.weight.grad.any()


def test_Faults_of_a_tiled_step_include_a_scaled_loss_and_memory_embeddings(silent):
    head = made({}, backend="tiled")
    head(*batch(0, torch.float32)).backward()
    before = state_of(head)
    (head(*batch(1, torch.float32)) * 2.0**16).backward()
    torch.testing.assert_close(state_of(head), before, atol=0, rtol=0)
    with pytest.raises(RuntimeError, match=r"step 1.*as a GradScaler does"):
        head(*batch(2, torch.float32))
    embeddings, labels = batch(2, torch.float32)
    head(embeddings, labels, torch.zeros_like(embeddings)).backward()
    torch.testing.assert_close(state_of(head), before, atol=0, rtol=0)
    with pytest.raises(DegenerateEmbeddingError, match="memory_embeddings of sample 0 is zero"):
        head(embeddings, labels)


def test_PrototypeHead_with_validate_now_raises_on_a_silent_device_in_the_step_itself(silent):
    head = made({}, backend="tiled", validate="now")
    with pytest.raises(DegenerateEmbeddingError, match="embeddings of sample 3 is zero"):
        head(*spoiled("zero"))
