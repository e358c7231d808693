"""Classes sharded over processes follow the trajectory of one process."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.grids import grid
from vplface import (
    ArcFace,
    BorrowedSpread,
    CosFace,
    FusedSGD,
    Gaussian,
    PrototypeHead,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    Variational,
    VonMisesFisher,
)
from vplface.ranks import Ranks, shard
from vplface.training.instruments import own_cosines

STEPS, DIM = 15, 6


def settings(classes=23, batch=10, **changes):
    """What a run consists of; every part is a function of it."""
    return {
        "classes": classes,
        "batch": batch,
        "backend": "tiled",
        "fused": False,
        "variational": (0.3, 4, 3),
        "sizes": None,
        "dtype": torch.float64,
        "margin": ArcFace(16.0, 0.3),
        "momentum_encoder": False,
        "options": {},
        "parts": 1,
        "steps": STEPS,
        **changes,
    }


def data(run, step):
    """The whole batch of a step, with classes that occur twice."""
    g = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(run["batch"], 5, generator=g, dtype=run["dtype"])
    labels = torch.randint(run["classes"], (run["batch"],), generator=g)
    labels[-1] = labels[0]
    if step == 7:
        labels[:] = run["classes"] - 1
    return inputs, labels


def slices(run, world):
    sizes = run["sizes"] or [len(part) for part in torch.arange(run["batch"]).tensor_split(world)]
    return torch.arange(run["batch"]).split(sizes)


def train(group, run):
    """Loss of every step, and the state at the end; of one process where the group is None."""
    torch.manual_seed(0)
    kind = run["dtype"]
    network: nn.Module = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, DIM)).to(kind)
    head = PrototypeHead(
        run["classes"],
        DIM,
        margin=run["margin"],
        variational=None if run["variational"] is None else Variational(*run["variational"]),
        backend=run["backend"],
        optimizer=FusedSGD(0.2, 0.9, 1e-3) if run["fused"] else None,
        dtype=kind,
        process_group=group,
        **run["options"],
    )
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    parameters = list(network.parameters()) + ([] if run["fused"] else [head.weight])
    optimizer = torch.optim.SGD(parameters, 0.2, 0.9, weight_decay=1e-3)
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    losses = []
    for step in range(run["steps"]):
        inputs, labels = data(run, step)
        own = slices(run, world)[rank] if group is not None else torch.arange(run["batch"])
        optimizer.zero_grad()
        if head.optimizer is not None:
            head.optimizer.zero_grad()
        total = 0.0
        with head.micro_batches():
            for part in own.tensor_split(run["parts"]):
                embeddings = trained(inputs[part])
                memory = embeddings.detach() * 2 + 1 if run["momentum_encoder"] else None
                loss = head(embeddings, labels[part], memory) / run["parts"]
                loss.backward()
                total += loss.item()
        optimizer.step()
        if head.optimizer is not None:
            head.optimizer.step()
        losses.append(total)
    momentum = (head.optimizer or optimizer).state[head.weight]["momentum_buffer"]
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "weight": head.weight.detach(),
        "momentum": momentum,
        "memory": head.memory,
        "timer": head.timer,
        "network": torch.cat([p.detach().flatten() for p in network.parameters()]),
        "coverage": head.coverage(),
        "classes": head.classes,
    }


def require_same(run, results, atol=1e-11):
    alone = train(None, run)
    for name in ("losses", "network"):
        for result in results:
            torch.testing.assert_close(result[name], alone[name], atol=atol, rtol=0)
    for name in ("weight", "momentum", "memory", "timer"):
        if alone[name] is not None:
            together = torch.cat([result[name] for result in results])
            torch.testing.assert_close(together, alone[name], atol=atol, rtol=0)
    assert [c for result in results for c in result["classes"]] == list(range(run["classes"]))
    assert [result["coverage"] for result in results] == pytest.approx([alone["coverage"]] * len(results))
    return alone


@grid(world=[1, 2, 3, 4], backend=["reference", "tiled", "triton"], fused=[False, True])
def test_PrototypeHead_on_several_ranks_matches_one_process(processes, world, backend, fused):
    run = settings(backend=backend, fused=fused, steps=8 if backend == "triton" else STEPS)
    alone = require_same(run, processes.run(train, world, run))
    assert alone["losses"][-1] < alone["losses"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 3},  # one rank of four has none
        {"classes": 2, "batch": 9},
        {"sizes": [1, 5, 3, 1]},
        {"variational": None},
        {"momentum_encoder": True},
        {"parts": 2, "sizes": [4, 4, 4, 4], "batch": 16},
        {"margin": ArcFace(90.0, 0.3), "classes": 7, "steps": 10},  # logits too large for a sum without its maximum
        {"margin": ArcFace(90.0, 0.3), "classes": 7, "backend": "reference", "fused": True, "steps": 10},
        {"margin": CosFace(16.0, 0.2), "options": {"workspace_mb": 0.0}},
        {"options": {"sample_rate": 0.4}},
        {"options": {"sample_rate": 0.4}, "fused": True},
        {"options": {"sample_rate": 0.4}, "fused": True, "backend": "reference", "classes": 3},
        {"options": {"filter_bound": 0.0}, "fused": True},
    ],
    ids=str,
)
def test_PrototypeHead_on_four_ranks_matches_one_process_with_other_options(processes, changes):
    run = settings(**changes)
    require_same(run, processes.run(train, 4, run))


@pytest.mark.slow
@grid(
    cover=1,  # kinds of memory do not know how a step is divided
    memory=[
        RunningMean(0.7),
        SeveralFeatures(3),
        Gaussian(bank=16),
        VonMisesFisher(bank=16),
        BorrowedSpread(bank=16),
        ShuffledMemory(),
    ],
    division=[
        (2, {}),
        (4, {"fused": True, "options": {"sample_rate": 0.6}}),
        (4, {"parts": 2, "batch": 16, "classes": 3}),
    ],
)
def test_PrototypeHead_on_several_ranks_matches_one_process_for_every_memory(processes, memory, division):
    world, changes = division
    run = settings(variational=(0.3, 4, 3, True, memory), steps=12, **changes)
    alone = require_same(run, processes.run(train, world, run))
    assert alone["coverage"] > 0


def test_PrototypeHead_on_three_ranks_stays_close_to_one_process_in_float32(processes):
    run = settings(dtype=torch.float32, fused=True, steps=10)
    require_same(run, processes.run(train, 3, run), atol=1e-4)


def gradients(group, run):
    head = PrototypeHead(run["classes"], DIM, process_group=group, dtype=torch.float64, margin=run["margin"])
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    g = torch.Generator().manual_seed(0)
    x = torch.randn(run["batch"], DIM, generator=g, dtype=torch.float64)
    own = slices(run, world)[rank] if group is not None else slice(None)
    leaf = x[own].clone().requires_grad_()
    (3.0 * head(leaf, data(run, 0)[1][own])).backward()
    return leaf.grad, head.weight.grad


def test_PrototypeHead_on_ranks_gives_embeddings_world_size_times_the_exact_gradient(processes):
    run = settings(sizes=[4, 1, 5])
    x, weight = gradients(None, run)
    found = processes.run(gradients, 3, run)
    torch.testing.assert_close(torch.cat([g for g, _ in found]), 3 * x, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.cat([w for _, w in found]), weight, atol=1e-12, rtol=0)


def evaluate(group, run):
    head = PrototypeHead(run["classes"], DIM, process_group=group, variational=Variational(0.2, 5, 0), seed=3)
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    g = torch.Generator().manual_seed(0)
    x = torch.randn(run["batch"], DIM, generator=g)
    labels = data(run, 0)[1]
    own = slices(run, world)[rank] if group is not None else slice(None)
    head(x[own], labels[own])
    with torch.no_grad():
        loss = head(x[own], labels[own]).item()
    return loss, own_cosines(head, x[own], labels[own])


def test_PrototypeHead_evaluation_and_own_cosines_on_ranks_match_one_process(processes):
    run = settings()
    loss, cosines = evaluate(None, run)
    assert cosines[1] > 0.5
    for other_loss, other in processes.run(evaluate, 3, run):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other == pytest.approx(cosines, rel=1e-5)


def faulty(group, kind):
    head = PrototypeHead(9, DIM, process_group=group)
    x, labels = torch.randn(4, DIM), torch.arange(4)
    if group.rank() == 1:
        if kind == "nan":
            x[2, 0] = torch.nan
        elif kind == "label":
            labels[3] = 9
        else:
            labels = labels.int()
    try:
        head(x, labels)
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "DegenerateEmbeddingError: embeddings of sample 2 is NaN"),
        ("label", "label 9 of sample 3"),
        ("type", "TypeError"),
    ],
)
def test_PrototypeHead_raises_on_all_ranks_for_a_bad_batch_on_one(processes, kind, message):
    first, second, third = processes.run(faulty, 3, kind)
    assert message in second
    for other in (first, third):
        assert other == "OtherRankError: the batch of rank 1 is invalid; see the error of that rank"


@given(st.integers(0, 200), st.integers(1, 9))
def test_shard_is_contiguous_and_gives_the_first_ranks_one_more(classes, world):
    shards = [shard(classes, rank, world) for rank in range(world)]
    assert [c for part in shards for c in part] == list(range(classes))
    assert [len(part) for part in shards] == [classes // world + (rank < classes % world) for rank in range(world)]


class _Alone(Ranks):
    def __init__(self, classes, own):
        self.classes, self.own = classes, own


@given(st.lists(st.integers(0, 99), max_size=20), st.integers(0, 99), st.integers(0, 99))
def test_Ranks_local_gives_the_row_of_an_own_label_and_minus_one_otherwise(labels, a, b):
    own = range(min(a, b), max(a, b))
    rows = _Alone(100, own).local(torch.tensor(labels, dtype=torch.int64)).tolist()
    assert rows == [own.index(label) if label in own else -1 for label in labels]
