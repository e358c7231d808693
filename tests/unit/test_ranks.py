"""Classes sharded over processes follow the trajectory of one process."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack, contextmanager
from types import FunctionType
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.grids import grid
from vplface import (
    AdaFace,
    ArcFace,
    BorrowedSpread,
    CosFace,
    CurricularFace,
    FusedSGD,
    Gaussian,
    MagFace,
    PrototypeHead,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    SphereFace2,
    Variational,
    VonMisesFisher,
    devices,
)
from vplface.ranks import OtherRankError, Ranks, shard
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


def different(group, kind):
    """The error of a batch of another kind on rank 1, and the loss of a step after it."""
    dim, dtype, memory = DIM, torch.float32, None
    if group.rank() == 1:
        dim += kind == "dim"
        dtype = torch.float64 if kind == "dtype" else dtype
        memory = torch.ones(4, dim) if kind == "memory" else None
    x = torch.ones(4, dim, dtype=dtype, requires_grad=not (kind == "gradient" and group.rank() == 1))
    error, head = "nothing", PrototypeHead(9, dim, process_group=group, dtype=dtype)
    try:
        head(x, torch.arange(4), memory)
    except RuntimeError as raised:
        error = f"{type(raised).__name__}: {raised}"
    head = PrototypeHead(9, DIM, process_group=group)
    loss = head(torch.ones(3, DIM, requires_grad=True), torch.arange(3))
    loss.backward()
    return error, loss.item()


@pytest.mark.parametrize(
    ("kind", "of_other"),
    [
        ("dim", "float32 [rows, 7] with gradient, int64 [rows]"),
        ("dtype", "float64 [rows, 6] with gradient, int64 [rows]"),
        ("memory", "float32 [rows, 6] with gradient, int64 [rows], float32 [rows, 6]"),
        ("gradient", "float32 [rows, 6], int64 [rows]"),
    ],
)
def test_PrototypeHead_raises_on_all_ranks_for_batches_of_different_kinds(processes, kind, of_other):
    usual = "float32 [rows, 6] with gradient, int64 [rows]"
    found = processes.run(different, 3, kind)
    assert len({loss for _, loss in found}) == 1
    for error, _ in found:
        assert error.startswith("OtherRankError: ranks exchange batches of different kinds")
        assert f"(rank 0, 2: {usual}; rank 1: {of_other})" in error


COLLECTIVES = [
    name
    for name in vars(dist)
    if name.startswith(("all_", "reduce", "gather", "scatter", "broadcast", "barrier", "send", "recv"))
    and type(vars(dist)[name]) is FunctionType
]


@contextmanager
def counted():
    """A count of collectives by the begin of their names."""
    count = Counter()

    def wrapped(name):
        function, kind = getattr(dist, name), re.sub("_(single|into_tensor|tensor)$", "", name)

        def call(*args, **options):
            count[kind] += 1
            return function(*args, **options)

        return patch.object(dist, name, call)

    with ExitStack() as stack:
        for name in COLLECTIVES:
            stack.enter_context(wrapped(name))
        yield count


def collectives(group, margin, encoder, options, silent):
    """The collectives of the third step of a head, forward and backward; on a device that the host waits for or not."""
    torch.manual_seed(group.rank())
    head = PrototypeHead(
        50, DIM, margin=margin, variational=Variational(0.3, 4, 0), backend="tiled", process_group=group, **options
    )
    with patch.object(devices, "reading_waits", lambda device: silent):
        for _ in range(3):
            x = torch.randn(4, DIM, requires_grad=True)
            with counted() as count:
                head(x, torch.randint(50, (4,)), torch.randn(4, DIM) if encoder else None).backward()
    return dict(count)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    ("margin", "encoder", "options", "all_reduce"),
    [
        (ArcFace(16.0, 0.3), False, {}, 1),
        (ArcFace(16.0, 0.3), True, {"optimizer": FusedSGD(0.1)}, 1),
        (ArcFace(16.0, 0.3), False, {"subcenters": 2, "sample_rate": 0.5}, 1),
        (MagFace(16.0), False, {}, 1),
        (AdaFace(16.0), False, {}, 1),
        (ArcFace(90.0, 0.3), False, {}, 2),  # the largest logits
        (ArcFace(16.0, 0.3), False, {"interclass_threshold": 0.5}, 2),  # own cosines before all others
        (SphereFace2(16.0), False, {}, 3),  # own cosines, and the gradient of the bias
        (CurricularFace(16.0), False, {}, 3),  # own cosines, also for the moving mean
    ],
    ids=str,
)
def test_PrototypeHead_takes_three_collectives_a_step_and_more_for_some_margins(
    processes, margin, encoder, options, all_reduce, silent
):
    for count in processes.run(collectives, 2, margin, encoder, options, silent):
        assert count == {"all_gather": 1, "all_reduce": all_reduce, "reduce_scatter": 1}


def gathered(group, sizes):
    """What ranks gather of batches of the given sizes, and the collectives of each gather."""
    ranks, found = Ranks(group, 5), []
    for step, of_ranks in enumerate(sizes):
        first = sum(of_ranks[: ranks.rank])
        x, y = whole_batch(step, sum(of_ranks))
        own = slice(first, first + of_ranks[ranks.rank])
        with counted() as count:
            columns, counts = ranks.gather(x[own], y[own])
        found.append((columns, counts, dict(count)))
    return found


def whole_batch(step, size):
    g = torch.Generator().manual_seed(step)
    return torch.randn(size, 3, generator=g), torch.randint(99, (size,), generator=g)


def test_Ranks_gather_repeats_only_for_a_larger_batch_than_before(processes):
    sizes = [[40, 40], [40, 40], [40, 60], [60, 60], [50, 50], [60, 1], [20, 20], [0, 20], [60, 60], [60, 60]]
    repeated = [0, 2, 8]
    for found in processes.run(gathered, 2, sizes):
        for step, (columns, counts, count) in enumerate(found):
            assert counts == sizes[step]
            for column, expected in zip(columns, whole_batch(step, sum(counts)), strict=True):
                assert torch.equal(column, expected)
            assert count == {"all_gather": 1 + (step in repeated)}


def fault_between_gathers(group):
    """The error of a gather of more rows than before, to which rank 1 reports a fault, and the gather after it."""
    ranks = Ranks(group, 5)
    ranks.gather(torch.zeros(4))
    error = "nothing"
    if ranks.rank == 1:
        ranks.report_fault(torch.device("cpu"))
    else:
        try:
            ranks.gather(torch.zeros(9))
        except OtherRankError as raised:
            error = str(raised)
    with counted() as count:
        (column,), _ = ranks.gather(torch.full((4,), ranks.rank))
    return error, column.tolist(), dict(count)


def test_Ranks_gather_works_after_a_fault(processes):
    for rank, (error, column, count) in enumerate(processes.run(fault_between_gathers, 3)):
        assert error == ("nothing" if rank == 1 else "the batch of rank 1 is invalid; see the error of that rank")
        assert column == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
        assert count["all_gather"] == 2  # int64 takes more room than float32


def sum_of_columns(group, sizes):
    """The gradients of columns of several types."""
    ranks = Ranks(group, 5)
    rows = sizes[ranks.rank]
    x = torch.ones(rows, 2, dtype=torch.bfloat16, requires_grad=True)
    lengths = torch.ones(rows, requires_grad=True)
    (every, labels, of_all), _ = ranks.gather(x, torch.arange(rows), lengths)
    weight = torch.arange(len(labels)) + 1.0 + 100 * ranks.rank
    ((every.float() * weight.unsqueeze(1)).sum() + (of_all * weight / 1024).sum()).backward()
    return x.grad, lengths.grad


def test_Ranks_gather_adds_gradients_of_columns_over_ranks(processes):
    found = processes.run(sum_of_columns, 2, [3, 1])
    expected = 2 * (2 * torch.arange(1.0, 5.0) + 100)
    assert torch.equal(torch.cat([x for x, _ in found]), expected.unsqueeze(1).expand(4, 2).bfloat16())
    assert torch.equal(torch.cat([lengths for _, lengths in found]), expected / 1024)


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
