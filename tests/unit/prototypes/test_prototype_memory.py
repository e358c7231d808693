"""The memory by itself, without a head or a plugged classifier."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

from vplface import Gaussian, PrototypeHead, RunningMean, Variational
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import StepPart, whole_step

WEIGHT = torch.zeros(5, 3, dtype=torch.float64)


def part(labels: list[int], seed: int = 0, counts: list[int] | None = None) -> StepPart:
    generator = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(len(labels), 3, generator=generator, dtype=torch.float64), dim=1)
    return StepPart(features, torch.tensor(labels), features, counts or [len(labels)])


def take_step(memory: PrototypeMemory, labels: list[int], seed: int = 0) -> StepPart:
    memory.begin_step(WEIGHT)
    memory.add(part(labels, seed))
    memory.finish_step()
    return part(labels, seed)


def test_PrototypeMemory_finish_step_writes_memory_and_timer_from_the_start_on():
    memory = PrototypeMemory(Variational(0.3, delta_t=2, start=1), 5, 3)
    take_step(memory, [0, 1])
    assert memory.memory is None
    seen = take_step(memory, [2, 4])
    assert memory.timer.tolist() == [0, 0, 2, 0, 2]
    assert torch.equal(memory.memory[[2, 4]], seen.features)
    assert memory.memory.dtype == torch.float64
    take_step(memory, [1])
    assert memory.timer.tolist() == [0, 2, 1, 0, 1]
    assert (memory.step_count, memory.coverage()) == (3, 0.6)


def test_PrototypeMemory_of_plain_prototypes_counts_steps_and_holds_nothing():
    memory = PrototypeMemory(None, 5, 3)
    take_step(memory, [0])
    assert (memory.step_count, memory.memory, memory.coverage(), memory.state) == (1, None, 0.0, {})
    for call in (memory.begin, lambda: memory.create(WEIGHT)):
        with pytest.raises(RuntimeError, match="plain prototypes"):
            call()


def test_PrototypeMemory_finish_step_waits_for_the_end_of_micro_batches():
    memory = PrototypeMemory(Variational(0.3, 2, 0), 5, 3)
    with memory.micro_batches():
        for labels in ([0], [3]):
            memory.begin_step(WEIGHT)
            memory.add(part(labels))
            assert memory.finish_step() is None
        assert memory.is_later_part
        with pytest.raises(RuntimeError, match="inside micro_batches"):
            copy.deepcopy(memory)
    assert memory.finish_step().labels.tolist() == [0, 3]
    assert memory.timer.tolist() == [2, 0, 0, 2, 0]


def test_PrototypeMemory_micro_batches_discard_a_failed_step():
    memory = PrototypeMemory(Variational(0.3, 2, 0), 5, 3)
    with pytest.raises(TypeError), memory.micro_batches():
        memory.add(part([1])) or len(None)
    assert memory.finish_step() is None


def test_whole_step_orders_samples_by_rank_and_then_by_part():
    step = whole_step([part([0, 1, 2], counts=[2, 1]), part([3, 4], counts=[1, 1])])
    assert step.labels.tolist() == [0, 1, 3, 2, 4]


@pytest.mark.parametrize("prefix", ["", "head.", "W_"])
@pytest.mark.parametrize("kind", [RunningMean(), Gaussian(bank=4)], ids=repr)
def test_PrototypeMemory_load_restores_what_save_wrote_under_any_prefix(prefix, kind):
    one, other = (PrototypeMemory(Variational(0.3, None, "auto", memory=kind), 5, 3) for _ in range(2))
    take_step(one, [1])
    one.begin(3)
    take_step(one, [1, 2])
    state: dict[str, torch.Tensor] = {}
    one.save(state, prefix)
    missing: list[str] = []
    errors: list[str] = []
    left = {**copy.deepcopy(state), "else": WEIGHT}
    assert other.load(left, prefix, WEIGHT, {}, missing, errors)
    assert (missing, errors, list(left)) == ([], [], ["else"])
    assert (other.step_count, other.begun_at, other.delta_t) == (2, 1, 3)
    for name, tensor in one.state.items():
        assert torch.equal(other.state[name], tensor)
    plain = PrototypeMemory(Variational(0.3, 3, 0), 5, 3)
    assert not plain.load(dict(state), prefix, WEIGHT, {}, missing, errors)
    assert errors[0].startswith(f"{prefix}memory: the state holds a memory of the kind {type(kind).__name__}")


def test_MemoryOwner_gives_the_public_names_of_its_memory():
    head = PrototypeHead(5, 3, variational=Variational(0.3, 2, 0, memory=Gaussian(bank=4)))
    head(torch.eye(3), torch.tensor([0, 1, 2])).backward()
    memory = head.prototype_memory
    assert (head.memory is memory.memory, head.timer is memory.timer, head.memory_bank is memory.memory_bank) == (
        True,
    ) * 3
    assert (head.step_count, head.begun_at, head.delta_t, head.coverage()) == (1, 0, 2, 0.6)
    head.timer = torch.zeros_like(head.timer)
    assert memory.coverage() == 0.0
    with pytest.raises(AttributeError, match="memory_of_elephants"):
        _ = head.memory_of_elephants
    assert {"memory", "timer", "memory_bank", "step_count"} < set(head.state_dict())
    assert not any(key.startswith("prototype_memory") for key in head.state_dict())
