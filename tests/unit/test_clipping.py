"""Clipping of a backbone and a head against torch's, over several steps in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.grids import INTERPRETED, grid
from vplface import ArcFace, FusedSGD, PrototypeHead, SphereFace2, Variational, clip_grad_norm_
from vplface.softmax import tiles

DIM = 6


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles and a partial last one."""
    monkeypatch.setattr(tiles, "TILE", {"cpu": 60})


def settings(**changes):
    """What a run consists of; every part is a function of it."""
    return {
        "fused": True,
        "backend": "tiled",
        "margin": ArcFace(16.0, 0.3),
        "variational": (0.3, 4, 3),
        "momentum": 0.9,
        "max_norm": 0.5,
        "options": {},
        "parts": 1,
        "batch": 10,
        "classes": 23,
        "dtype": torch.float64,
        "steps": 8,
        **changes,
    }


def data(run, step):
    g = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(run["batch"], 5, generator=g, dtype=run["dtype"])
    return inputs, torch.randint(run["classes"], (run["batch"],), generator=g)


def train(group, run):
    """Norms, and the state at the end; by FusedSGD, or by torch's SGD and torch's clipping."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, DIM)).to(run["dtype"])
    head = PrototypeHead(
        run["classes"],
        DIM,
        margin=run["margin"],
        variational=None if run["variational"] is None else Variational(*run["variational"]),
        backend=run["backend"],
        optimizer=FusedSGD(0.2, run["momentum"], 1e-2, in_backward=False) if run["fused"] else None,
        dtype=run["dtype"],
        process_group=group,
        **run["options"],
    )
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    others = [*network.parameters(), *(p for p in head.parameters() if p is not head.weight)]
    parameters = others if run["fused"] else [*others, head.weight]
    optimizers = [torch.optim.SGD(parameters, 0.2, run["momentum"], weight_decay=1e-2)]
    optimizers += [head.optimizer] if run["fused"] else []
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.8) for each in optimizers]
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    norms = []
    for step in range(run["steps"]):
        inputs, labels = data(run, step)
        for each in optimizers:
            each.zero_grad()
        with head.micro_batches():
            for part in torch.arange(run["batch"]).tensor_split(world)[rank].tensor_split(run["parts"]):
                (head(trained(inputs[part]), labels[part]) / run["parts"]).backward()
        if run["fused"] or group is not None:
            norms.append(clip_grad_norm_(others, run["max_norm"], head=head))
        else:
            norms.append(nn.utils.clip_grad_norm_(parameters, run["max_norm"]))
        state = optimizers[-1].state[head.weight]
        still = head.weight.detach().clone(), state["momentum_buffer"].clone() if state else 0 * head.weight.detach()
        drawn = None if run["fused"] else head.weight.grad.flatten(1).any(1)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if drawn is not None and head.sample_rate < 1.0:  # FusedSGD leaves the others alone, which torch does not
            with torch.no_grad():
                head.weight[~drawn] = still[0][~drawn]
                if run["momentum"]:
                    state["momentum_buffer"][~drawn] = still[1][~drawn]
    return {
        "norms": torch.stack(norms),
        "network": torch.cat([p.detach().flatten() for p in others]),
        "weight": head.weight.detach(),
        "momentum": optimizers[-1].state[head.weight].get("momentum_buffer"),
    }


def require_same(results, expected, atol=1e-11, rtol=0):
    for name in ("norms", "network"):
        for result in results:
            torch.testing.assert_close(result[name], expected[name], atol=atol, rtol=rtol, check_dtype=False)
    for name in ("weight", "momentum"):
        if expected[name] is not None:  # a rank without classes has no momentum
            together = torch.cat([result[name] for result in results if result[name] is not None])
            torch.testing.assert_close(together, expected[name], atol=atol, rtol=rtol)


@grid(
    backend=["reference", "tiled"],
    variational=[None, (0.3, 4, 3)],
    options=[{}, {"sample_rate": 0.4}, {"subcenters": 2}],
    parts=[1, 3],
    momentum=[0.0, 0.9],
    max_norm=[0.5, 1e6],
)
def test_clip_grad_norm__of_a_held_gradient_has_the_trajectory_of_torch(
    backend, variational, options, parts, momentum, max_norm
):
    run = settings(
        backend=backend,
        variational=variational,
        options=options,
        parts=parts,
        momentum=momentum,
        max_norm=max_norm,
        steps=8,
    )
    expected = train(None, {**run, "fused": False})
    require_same([train(None, run)], expected)
    clipped = expected["norms"] > run["max_norm"]
    assert clipped.all() if run["max_norm"] < 1 else not clipped.any()


@INTERPRETED
@pytest.mark.parametrize("variational", [None, (0.3, 2, 1)])
@pytest.mark.parametrize("options", [{}, {"sample_rate": 0.4}, {"subcenters": 2}], ids=str)
def test_clip_grad_norm__of_a_gradient_held_by_triton_has_the_trajectory_of_torch(variational, options):
    # Momentum and norm act on the gradient that a backend has written, so their cases are those of the other backends.
    run = settings(backend="triton", variational=variational, options=options, parts=2, steps=4)
    require_same([train(None, run)], train(None, {**run, "fused": False}))


def test_clip_grad_norm__includes_other_parameters_of_the_head():
    run = settings(margin=SphereFace2(8.0))
    require_same([train(None, run)], train(None, {**run, "fused": False}))


@grid(world=[1, 2, 4], fused=[True, False], division=[({}, 1), ({}, 2), ({"sample_rate": 0.4}, 1)])
def test_clip_grad_norm__over_ranks_has_the_trajectory_of_torch_in_one_process(processes, world, fused, division):
    # Ranks divide a batch into other parts than one process does: with other means unless all have the same size, and,
    # with sample_rate, compared with other classes.
    options, parts = division
    run = settings(fused=fused, options=options if fused else {}, parts=parts, batch=16)
    require_same(processes.run(train, world, run), train(None, {**run, "fused": False}))


def test_clip_grad_norm__with_more_ranks_than_classes(processes):
    run = settings(classes=3)
    require_same(processes.run(train, 4, run), train(None, {**run, "fused": False}))


def step(head, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(5, DIM, generator=g, dtype=head.weight.dtype)
    head(x.requires_grad_(), torch.randint(23, (5,), generator=g)).backward()


def make(fused=True, **options):
    optimizer = FusedSGD(0.2, in_backward=False) if fused else None
    return PrototypeHead(23, DIM, margin=ArcFace(16.0, 0.3), optimizer=optimizer, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clip_grad_norm__stays_near_torch_in_smaller_types(dtype):
    run, error = settings(dtype=dtype, steps=5), 16 * torch.finfo(dtype).eps
    require_same([train(None, run)], train(None, {**run, "fused": False}), atol=error, rtol=error)


def test_clip_grad_norm__twice_scales_twice():
    held, plain = make(dtype=torch.float64), make(fused=False, dtype=torch.float64)
    sgd = torch.optim.SGD(plain.parameters(), 0.2, 0.9, weight_decay=5e-4)
    for head in (held, plain):
        step(head)
    for max_norm in (1.0, 0.1):
        expected = nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
        torch.testing.assert_close(clip_grad_norm_([], max_norm, head=held), expected)
    for head in (held, plain):  # what is added is not clipped
        step(head, 1)
    torch.testing.assert_close(
        clip_grad_norm_([], 1e9, head=held), nn.utils.get_total_norm([plain.weight.grad]), rtol=1e-9, atol=0
    )
    held.optimizer.step()
    sgd.step()
    torch.testing.assert_close(held.weight, plain.weight)


def test_clip_grad_norm__clips_an_ordinary_gradient_of_w():
    ours, theirs = make(fused=False), make(fused=False)
    for head in (ours, theirs):
        step(head)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
    torch.testing.assert_close(clip_grad_norm_(iter(ours.parameters()), 0.3, head=ours), expected)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_clip_grad_norm__gives_the_norm_of_what_there_is():
    head, leaf = make(), torch.ones(4, requires_grad=True)
    assert clip_grad_norm_([leaf], 1.0, head=head) == 0
    leaf.sum().backward()
    assert clip_grad_norm_([leaf], 1.0, head=head) == 2
    torch.testing.assert_close(leaf.grad, torch.full((4,), 0.5))
    head.weight.requires_grad_(False)
    step(head)
    assert clip_grad_norm_([], 1.0, head=head) == 0


def test_clip_grad_norm__of_a_gradient_that_is_not_finite_is_not_finite():
    head, leaf = make(), torch.ones(2, requires_grad=True)
    step(head)
    (leaf * torch.inf).sum().backward()
    assert not clip_grad_norm_([leaf], 1.0, head=head).isfinite()


def test_clip_grad_norm__refuses_prototypes_that_have_moved():
    head = PrototypeHead(23, DIM, optimizer=FusedSGD(0.2))
    step(head)
    with pytest.raises(RuntimeError, match="in_backward=False"):
        clip_grad_norm_([], 1.0, head=head)
