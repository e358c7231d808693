"""A fused step on meta tensors, which have no numbers: it reads nothing on the host, and its launches are counted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn.utils import clip_grad

pytest.importorskip("triton", reason="needs vplface[triton]")

from helpers.recorded_ranks import GROUP, recorded_ranks
from helpers.silence import Recorded, Started
from vplface import FusedSGD, PrototypeHead, Variational, X2Softmax, clip_grad_norm_
from vplface.softmax.fused import kernels


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that would have been launched."""
    names = []
    first, last = ("pack", "own", "prepare", "forward", "combine", "finish"), ("clip", "update", "remember")
    for name in (*first, "pull", "close", "project", "move", *last):
        assert hasattr(kernels, name)
        monkeypatch.setattr(kernels, name, Recorded(name, names))
    return names


@pytest.fixture(autouse=True)
def _autocast():
    """Autocast to bfloat16 as on a GPU; ``torch.autocast`` refuses without one."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)


def meta_head(classes=10_000_000, variational=Variational(0.15, 100, 0), in_backward=True, **options):  # noqa: B008
    optimizer = FusedSGD(0.1, in_backward=in_backward)
    return PrototypeHead(
        classes, 512, variational=variational, optimizer=optimizer, backend="triton", device="meta", **options
    )


def meta_batch(size=512):
    embeddings = torch.empty(size, 512, dtype=torch.bfloat16, device="meta", requires_grad=True)
    return embeddings, torch.empty(size, dtype=torch.int64, device="meta")


def work_of_a_step(head, launches, size=512, others=()):
    """What the third step starts: kernels by name and other operations; ``others`` are clipped along."""
    for step in range(3):
        launches.clear()
        with Started() as started:
            head.optimizer.zero_grad()
            loss = head(*meta_batch(size))
            loss.backward()
            if not head.optimizer.in_backward:
                clip_grad_norm_(others, 5.0, head=head)
            head.optimizer.step()
        assert head.step_count == step + 1
    return Counter(launches) + started.operations


@pytest.mark.parametrize("variational", [None, Variational(0.15, 100, 0), Variational(0.15, 100, 1)], ids=str)
def test_FusedStep_reads_nothing_and_starts_the_same_at_any_number_of_classes(variational, launches):
    few = work_of_a_step(meta_head(100_000, variational), launches)
    many = work_of_a_step(meta_head(10_000_000, variational), launches)
    assert few == many
    assert many.total() <= 10
    assert work_of_a_step(meta_head(10_000_000, variational), launches, size=100) == many


@pytest.mark.parametrize("variational", [None, Variational(0.15, 100, 0)], ids=str)
def test_FusedStep_on_ranks_reads_nothing_and_starts_the_same_at_any_number_of_classes(variational, launches):
    """Collectives are counted beside what else is started; the one by which ranks agree comes once."""
    with recorded_ranks() as collectives:
        few = work_of_a_step(meta_head(100_000, variational, process_group=GROUP), launches)
        assert collectives == {"agree": 1, "all_gather": 3, "add_": 3, "reduce_scatter": 3, "wait": 3}
        many = work_of_a_step(meta_head(10_000_000, variational, process_group=GROUP), launches, size=100)
    assert few == many
    assert many.total() <= 13


def test_FusedStep_on_ranks_updates_W_beside_the_sum_of_the_gradients_of_embeddings(launches):
    with recorded_ranks(order=launches):
        head = meta_head(process_group=GROUP)
        head(*meta_batch()).backward()
    forward = ["agree", "pack", "all_gather", "own", "prepare", "forward", "combine", "add_", "finish"]
    assert launches == [*forward, "pull", "close", "reduce_scatter", "move", "remember", "wait", "project"]


def test_FusedStep_with_clipping_on_ranks_reads_nothing_and_takes_one_more_collective(launches):
    with recorded_ranks() as collectives:
        few = work_of_a_step(meta_head(100_000, in_backward=False, process_group=GROUP), launches)
        assert collectives == {"agree": 1, "all_gather": 6, "add_": 3, "reduce_scatter": 3, "wait": 3}
        many = work_of_a_step(meta_head(10_000_000, in_backward=False, process_group=GROUP), launches)
    assert few == many
    assert many.total() <= 15


def test_FusedStep_with_clipping_reads_nothing_and_starts_the_same_at_any_number_of_classes(launches, monkeypatch):
    few = work_of_a_step(meta_head(100_000, in_backward=False), launches)
    many = work_of_a_step(meta_head(10_000_000, in_backward=False), launches)
    assert few == many
    assert many.total() <= 12
    monkeypatch.setattr(clip_grad, "_has_foreach_support", lambda tensors, device: True)  # as for a GPU
    others = [torch.nn.Parameter(torch.empty(8, 3, device="meta")) for _ in range(20)]
    for each in others:
        each.grad = torch.empty_like(each)
    together = work_of_a_step(meta_head(10_000_000, in_backward=False), launches, others=others)
    assert (together - many).total() <= 8  # torch's norm and scaling of the others


def test_FusedStep_of_another_margin_reads_nothing(launches):
    assert work_of_a_step(meta_head(margin=X2Softmax()), launches).total() < 50


def test_Started_sees_a_step_that_reads(launches):
    """The gate fails where a step does wait: a batch that the host checks."""
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        work_of_a_step(meta_head(1000, validate="now"), launches)


def test_PrototypeHead_on_meta_takes_no_memory():
    head = meta_head()
    assert head.weight.is_meta
    assert head.weight.shape == (10_000_000, 512)
