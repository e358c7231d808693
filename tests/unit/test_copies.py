"""Heads that are pickled, saved whole, copied or given to a process train on as the original, bit for bit."""

import copy
import io
import pickle
import re
from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.heads import AT_ONCE, OPTIONS, made, optimiser_of
from helpers.spawned import B, D, N, advance, train_on
from vplface import (
    ArcFace,
    PrototypeHead,
    plug,
)


def saved_whole(head):
    buffer = io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def pickled(head, protocol=pickle.DEFAULT_PROTOCOL):
    return pickle.loads(pickle.dumps(head, protocol))


def given_to_a_process(head):
    buffer = io.BytesIO()
    ForkingPickler(buffer).dump(head)
    twin = pickle.loads(buffer.getvalue())
    # The twin shares the tensors of the original in shared memory; a copy gives it tensors of its own.
    return copy.deepcopy(twin)


WAYS = {"pickle": pickled, "torch.save": saved_whole, "process": given_to_a_process, "deepcopy": copy.deepcopy}


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def go_on_alike(head, optimizer, twin, twins_optimizer, first, steps=4):
    for one, other in zip(
        advance(head, optimizer, first, steps), advance(twin, twins_optimizer, first, steps), strict=True
    ):
        assert torch.equal(one, other)
    same(head.state_dict(), twin.state_dict())
    if head.optimizer is not None:
        same(*({k: v for k, v in each.optimizer.state[each.weight].items() if v is not None} for each in (head, twin)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIONS)
def test_PrototypeHead_copy_trains_on_bit_for_bit_like_the_original(name, way):
    head = made(name)
    optimizer = optimiser_of(head)
    advance(head, optimizer, 0, 3)
    twin, twins = WAYS[way]((head, optimizer))
    assert twin.weight is not head.weight
    if twin.optimizer is not None:
        assert twin.optimizer.param_groups[0]["params"][0] is twin.weight
    go_on_alike(head, optimizer, twin, twins, 3)
    assert not torch.equal(twin.weight, made(name).weight)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_PrototypeHead_pickled_with_every_protocol_trains_on_like_the_original(protocol):
    head = made("fused")
    advance(head, None, 0, 2)
    go_on_alike(head, None, pickled(head, protocol), None, 2)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(OPTIONS)),
    before=st.integers(0, 6),
    after=st.integers(1, 4),
    way=st.sampled_from(["pickle", "torch.save"]),
    count=st.booleans(),
)
def test_PrototypeHead_pickled_at_any_step_trains_on_like_the_original(name, before, after, way, count):
    head = made(name, count)
    optimizer = optimiser_of(head)
    advance(head, optimizer, 0, before)
    twin, twins = WAYS[way]((head, optimizer))
    go_on_alike(head, optimizer, twin, twins, before, after)
    if count:
        assert torch.equal(head.by_age.counts, twin.by_age.counts)
        assert torch.equal(head.by_age.sums, twin.by_age.sums)


@pytest.mark.parametrize("name", ["fused", "EPL", "Gaussian"])
def test_PrototypeHead_pickled_between_forward_and_backward_includes_the_step(name):
    """The copy includes the step; the backward pass of the original still uses the memory of its forward pass."""
    head, expected = made(name), made(name)
    for each in (head, expected):
        advance(each, None, 0, 2)
    x, y = torch.randn(B, D, generator=torch.Generator().manual_seed(7)), torch.arange(B)
    gradients = []
    for each in (head, expected):
        rows = x.clone().requires_grad_()
        loss = each(rows, y)
        if each is head:
            twin = pickled(head)
            assert twin.step_count == 3
        loss.backward()
        gradients.append(rows.grad)
    assert torch.equal(*gradients)
    same(head.state_dict(), expected.state_dict())
    same(*({key: value for key, value in each.state_dict().items() if key != "weight"} for each in (twin, head)))
    advance(twin, optimiser_of(twin), 3, 2)


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_PrototypeHead_micro_batches_refuse_copies_until_they_end(way):
    head = made("reference")
    with head.micro_batches():
        head(torch.ones(2, D), torch.arange(2))
        with pytest.raises(RuntimeError, match="inside micro_batches"):
            way(head)
    assert head.step_count == 1
    way(head)


def test_PrototypeHead_pickled_with_its_scheduler_keeps_the_shared_optimizer():
    head = made("fused")
    scheduler = torch.optim.lr_scheduler.StepLR(head.optimizer, 2, 0.1)
    advance(head, None, 0, 2)
    scheduler.step()
    twin, twins = pickled((head, scheduler))
    assert twins.optimizer is twin.optimizer
    for one, schedule in ((head, scheduler), (twin, twins)):
        schedule.step()
        assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    go_on_alike(head, None, twin, None, 2)


@pytest.mark.slow
def test_PrototypeHead_trains_on_in_a_spawned_process(tmp_path):
    head = made("fused")
    advance(head, None, 0, 2)
    twin = copy.deepcopy(head)
    torch.multiprocessing.spawn(train_on, (head, tmp_path / "found"), nprocs=1)
    found, state = torch.load(tmp_path / "found")
    for one, other in zip(advance(twin, None, 2, 2), found, strict=True):
        assert torch.equal(one, other)
    same(twin.state_dict(), state)


@pytest.fixture
def group():
    if dist.is_initialized():
        pytest.skip("this process is one of a group")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_PrototypeHead_with_a_process_group_refuses_pickle_and_shares_the_group_with_copies(group):
    head = PrototypeHead(N, D, process_group=group, variational=AT_ONCE)
    linear = torch.nn.Linear(D, N)
    handle = plug(linear, "weight", process_group=group)
    advance(head, optimizer := optimiser_of(head), 0, 2)
    with pytest.raises(TypeError, match=r"process_group cannot be pickled.*state_dict"):
        pickle.dumps(head)
    with pytest.raises(TypeError, match=r"process_group cannot be pickled.*state_dict"):
        pickle.dumps(handle.ranks)
    twin, twins = copy.deepcopy((head, optimizer))
    assert twin.ranks is head.ranks
    go_on_alike(head, optimizer, twin, twins, 2)
    assert copy.deepcopy(linear).parametrizations.weight[0].ranks is handle.ranks


def test_PrototypeHead_with_a_process_group_refuses_second_derivatives(group):
    head = PrototypeHead(N, D, process_group=group, backend="reference", margin=ArcFace(8.0))
    x = torch.randn(B, D).requires_grad_()
    for wanted in (x, head.weight):
        (gradient,) = torch.autograd.grad(head(x, torch.arange(B)), wanted, create_graph=True)
        with pytest.raises(RuntimeError, match=r"no second derivative: ranks have exchanged it"):
            gradient.square().sum().backward()


def classifier():
    module = torch.nn.Linear(D, N)
    handle = plug(module, "weight", AT_ONCE)
    for step in range(2):
        handle.remember(torch.randn(B, D, generator=torch.Generator().manual_seed(step)), torch.arange(B))
    return module, handle


@pytest.mark.parametrize("way", [pickle.dumps, partial(torch.save, f=io.BytesIO())])
@pytest.mark.parametrize("what", ["module", "handle", "around"])
def test_plug_prevents_pickling_of_the_module_until_the_handle_is_removed(what, way):
    """torch refuses to pickle parametrised modules."""
    module, handle = classifier()
    pickled_thing = {"module": module, "handle": handle, "around": torch.nn.Sequential(module)}[what]
    with pytest.raises(RuntimeError, match=re.escape("only supported through state_dict()")):
        way(pickled_thing)
    handle.remove()
    way(module)
    assert torch.equal(pickled(module).weight, module.weight)


def test_VariationalWeight_micro_batches_refuse_copies_until_they_end():
    module, handle = classifier()
    with handle.micro_batches(), pytest.raises(RuntimeError, match=r"inside micro_batches"):
        copy.deepcopy(module)
    copy.deepcopy(module)


def test_plug_copy_of_the_module_trains_on_like_the_original():
    module, handle = classifier()
    twin = copy.deepcopy(module)
    twins = twin.parametrizations.weight[0]
    for step in range(3):
        x = torch.randn(B, D, generator=torch.Generator().manual_seed(10 + step))
        assert torch.equal(module(x), twin(x))
        handle.remember(x, torch.arange(B) + step)
        twins.remember(x, torch.arange(B) + step)
    same(module.state_dict(), twin.state_dict())
