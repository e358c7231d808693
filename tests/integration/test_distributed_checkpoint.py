"""A state that lacks its memory is refused; torch.distributed.checkpoint saves and loads memories."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from vplface import (
    FusedSGD,
    Gaussian,
    LastFeature,
    PrototypeHead,
    SeveralFeatures,
    UniTSFace,
    Variational,
    plug,
)

N, D, B = 10, 6, 5
AT_ONCE = Variational(0.3, 20, 0)
AUTO = Variational(0.3, None, "auto")


def batch(step):
    chance = torch.Generator().manual_seed(step)
    return torch.randn(B, D, generator=chance), torch.randint(N, (B,), generator=chance)


class Head:
    """A head and, in the same words, a plugged classifier."""

    key = ""

    def __init__(self, variational, **options):
        self.module = self.memorises = PrototypeHead(N, D, variational=variational, **options)

    def see(self, *steps):
        for step in steps:
            x, y = batch(step)
            self.module(x.requires_grad_(), y).backward()
        return self

    def state(self):
        return self.module.state_dict()


class Plug(Head):
    key = "weight_"

    def __init__(self, variational):
        torch.manual_seed(0)
        self.module = nn.Linear(D, N)
        self.memorises = plug(self.module, "weight", variational)

    def see(self, *steps):
        for step in steps:
            self.memorises.remember(*batch(step))
        return self


def through_a_checkpoint(saved, state, folder):
    """What a checkpoint of ``saved`` leaves in ``state``."""
    dcp.save(saved, checkpoint_id=folder, no_dist=True)
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [LastFeature(), SeveralFeatures(2), Gaussian()], ids=repr)
@pytest.mark.parametrize("start", [0, "auto"])
@pytest.mark.parametrize("made", [Head, Plug])
def test_load_state_dict_names_a_missing_memory_and_loads_it_after_create_memory(made, start, kind, tmp_path):
    variational = Variational(0.3, 20 if start == 0 else None, start, memory=kind)
    one = made(variational)
    if start == "auto":
        one.see(0, 1).memorises.begin(9)
    one.see(2, 3, 4)
    fresh = made(variational)
    state = through_a_checkpoint(one.state(), fresh.state(), tmp_path)
    with pytest.raises(RuntimeError, match=rf'Missing key.*"{one.key}memory .*create_memory\(\).*"{one.key}timer"'):
        fresh.module.load_state_dict(state)
    state = through_a_checkpoint(one.state(), fresh.state(), tmp_path)
    missing, unexpected = fresh.module.load_state_dict(state, strict=False)
    assert {f"{one.key}memory", f"{one.key}timer"} <= set(missing)
    assert not unexpected

    placed = made(variational)
    placed.memorises.create_memory()
    placed.module.load_state_dict(through_a_checkpoint(one.state(), placed.state(), tmp_path))
    assert placed.memorises.coverage() == one.memorises.coverage() > 0
    assert (placed.memorises.begun_at, placed.memorises.delta_t) == ((0, 20) if start == 0 else (2, 9))
    same(one.see(5, 6).state(), placed.see(5, 6).state())


@pytest.mark.parametrize("made", [Head, Plug])
@pytest.mark.parametrize("start", [2, "auto"])
def test_load_state_dict_requires_a_memory_only_after_the_start_step(made, start):
    """The memory is created in step ``start``: the state before that step has none."""
    head = made(Variational(0.3, 20, start))
    for step in range(4):
        state = copy.deepcopy(head.state())
        other = made(Variational(0.3, 20, start))
        assert (f"{head.key}memory" in state) == (start == 2 and step > 2)
        assert list(other.module.load_state_dict(state)) == [[], []]
        if f"{head.key}memory" in state:
            for key in ("memory", "timer"):
                del state[head.key + key]
            with pytest.raises(RuntimeError, match="Missing key"):
                other.module.load_state_dict(state)
        head.see(step)


def test_load_state_dict_accepts_states_of_plain_heads_and_of_earlier_versions():
    """States of plain heads and of earlier versions load, and plain heads load states without a memory."""
    plain, early = Head(None).see(0, 1), Head(Variational(0.3, 20, 5)).see(0, 1)
    assert list(early.module.load_state_dict(plain.state())) == [[], []]
    waiting = Head(AUTO).see(0, 1, 2)
    before = {key: value for key, value in waiting.state().items() if key not in ("begun_at", "delta_t")}
    assert list(Head(AUTO).module.load_state_dict(before)) == [[], []]
    for one in (early, waiting):
        assert list(plain.module.load_state_dict(one.state())) == [[], []]
    begun = Head(AT_ONCE).see(0)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*memory"):
        plain.module.load_state_dict(begun.state())
    with pytest.raises(RuntimeError, match=r"Missing key.*memory"):
        begun.module.load_state_dict(plain.state())  # this state is past the start; strict=False begins a new memory
    assert begun.module.load_state_dict(plain.state(), strict=False).missing_keys == ["memory", "timer"]
    assert begun.see(1).module.coverage() > 0


@pytest.mark.parametrize("made", [Head, Plug])
def test_load_state_dict_requires_the_step_count_of_a_memory(made):
    one = made(AT_ONCE).see(0)
    state = {key: value for key, value in one.state().items() if not key.endswith("step_count")}
    with pytest.raises(RuntimeError, match=f'Missing key.*"{one.key}step_count"'):
        one.module.load_state_dict(state)


def test_load_state_dict_names_missing_keys_with_the_prefix_of_a_larger_module():
    model = nn.ModuleDict({"head": Head(AT_ONCE).see(0).module})
    state = {key: value for key, value in model.state_dict().items() if "memory" not in key and "timer" not in key}
    assert model.load_state_dict(state, strict=False).missing_keys == ["head.memory", "head.timer"]


@pytest.mark.parametrize("made", [Head, Plug])
@pytest.mark.parametrize("variational", [Variational(0.3, 20, 3), AUTO])
def test_create_memory_does_not_begin_injection(made, variational):
    expected, one = made(variational).see(0, 1), made(variational)
    one.memorises.create_memory()
    one.see(0, 1)
    assert one.memorises.coverage() == 0
    again = made(variational)
    if variational is AUTO:
        again.module.load_state_dict(one.state())
        assert again.memorises.begun_at is None
        for each in (expected, one, again):
            each.memorises.begin(4)
    for each in (expected, one):
        each.see(2, 3, 4)
    same(expected.state(), one.state())
    if variational is AUTO:
        same(expected.state(), again.see(2, 3, 4).state())


def test_create_memory_refuses_plain_prototypes_and_a_removed_plug():
    with pytest.raises(RuntimeError, match="plain prototypes"):
        PrototypeHead(N, D).create_memory()
    handle = plug(nn.Linear(D, N), "weight")
    handle.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        handle.create_memory()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_PrototypeHead_round_trip_by_get_and_set_model_state_dict(tmp_path):
    variational = Variational(0.3, None, "auto", memory=Gaussian())
    options = {"variational": variational, "terms": [UniTSFace()], "optimizer": FusedSGD(0.1)}
    one, other = Head(**options), Head(**options)
    one.memorises.begin(9)
    one.see(0, 1)
    other.memorises.create_memory()
    state = through_a_checkpoint(get_model_state_dict(one.module), get_model_state_dict(other.module), tmp_path)
    set_model_state_dict(other.module, state)
    same(one.state(), other.state())


def _sharded(group, folder):
    """Save with the rows of every class spread over two ranks, and load in the same form."""
    mesh = DeviceMesh.from_group(group, "cpu")

    def spread(module):
        return {
            key: distribute_tensor(value, mesh, [Shard(0)]) if value.ndim and len(value) == N else value
            for key, value in module.state_dict().items()
        }

    one, other = Head(AT_ONCE).see(0, 1, 2).module, Head(AT_ONCE).module
    dcp.save(spread(one), checkpoint_id=folder, process_group=group)
    lost = spread(other)
    dcp.load(lost, checkpoint_id=folder, process_group=group)
    whole = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in lost.items()}
    refused = ""
    try:
        other.load_state_dict(whole)
    except RuntimeError as error:
        refused = str(error)
    other.create_memory()
    state = spread(other)
    dcp.load(state, checkpoint_id=folder, process_group=group)
    assert state["memory"].to_local().shape == (N // 2, D)
    other.load_state_dict(
        {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in state.items()}
    )
    same(one.state_dict(), other.state_dict())
    return "create_memory()" in refused


def test_PrototypeHead_round_trip_through_a_checkpoint_sharded_over_two_ranks(processes, tmp_path):
    assert processes.run(_sharded, 2, tmp_path) == [True, True]
