"""Fused steps of a head whose classes are shared by processes, in Triton's interpreter, against one process."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton", reason="needs vplface[triton]")

from helpers.faulty_ranks import OF_OTHER, faulty
from vplface import ArcFace, FusedSGD, PrototypeHead, Variational, X2Softmax, clip_grad_norm_

N, D = 20, 64
TWO_STEPS = Variational(0.3, 2, 0)
USUAL = {"variational": TWO_STEPS, "margin": ArcFace(32.0), "in_backward": True, "parts": 1, "encoder": None}


def head_of(group, run):
    """A head that shares classes in fused steps, or without a group the definition."""
    alone = group is None
    head = PrototypeHead(
        N,
        D,
        margin=run["margin"],
        variational=run["variational"],
        optimizer=FusedSGD(0.1, 0.9, 5e-4, in_backward=run["in_backward"]),
        backend="reference" if alone else "triton",
        dtype=torch.float64 if alone else torch.float32,
        process_group=group,
        validate=run.get("validate", "late"),
    )
    assert alone or "(fused step)" in repr(head), repr(head)
    return head


def batch(step, size):
    """Embeddings of any length and labels, of which several are equal."""
    g = torch.Generator().manual_seed(step)
    labels = torch.randint(N, (size,), generator=g)
    labels[:2], labels[-1] = N - 1, labels[2]
    return 3 * torch.randn(size, D, generator=g), labels


def train(group, run):
    """(losses, gradients of the embeddings of this rank, norms, state) of steps with the given sizes of the ranks."""
    head = head_of(group, run)
    if head.ranks is not None:
        head.ranks.reserved = run.get("reserved", 0)
    losses, gradients, norms = [], [], []
    for step, sizes in enumerate(run["sizes"]):
        head.optimizer.zero_grad()
        inputs, labels = batch(step, sum(sizes))
        first = 0 if group is None else sum(sizes[: group.rank()])
        own = slice(None) if group is None else slice(first, first + sizes[group.rank()])
        x, y = inputs[own].to(head.weight.dtype).requires_grad_(), labels[own]
        with head.micro_batches():
            for part in range(run["parts"]):  # of the same samples, so that one process takes them in the same order
                encoder = run["encoder"] is not None and step >= run["encoder"]
                memory = (x.detach() * (part + 2) + 1).flip(1) if encoder else None
                loss = head(x * (1 + part) + part, y, memory) / run["parts"]
                loss.backward()
                losses.append(loss.detach())
        if not run["in_backward"]:
            norms.append(clip_grad_norm_([], 0.3, head=head))
        head.optimizer.step()
        gradients.append(x.grad)
    head.finish_step()
    state = {"weight": head.weight.detach(), "momentum": head.optimizer.state[head.weight]["momentum_buffer"]}
    if run["variational"] is not None:
        state |= {"memory": head.memory, "timer": head.timer}
    return losses, gradients, norms, state


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (3, {"sizes": [[3, 3, 3], [1, 3, 2], [4, 4, 4]]}),
        (2, {"sizes": [[2, 2], [1, 3]], "reserved": 3, "in_backward": False, "variational": None}),
        (2, {"sizes": [[3, 3], [2, 3]], "in_backward": False, "parts": 2, "encoder": 1, "margin": X2Softmax(16.0)}),
        (2, {"sizes": [[2, 2], [2, 5]], "validate": "now"}),
    ],
    ids=str,
)
def test_FusedStep_on_several_ranks_is_the_definition_of_one_process(processes, world, changes):
    run = {**USUAL, **changes}
    losses, gradients, norms, state = train(None, run)
    found = processes.run(train, world, run)
    for of_rank in found:
        close(torch.stack(of_rank[0]), torch.stack(losses))
        close(torch.stack([torch.zeros(()), *of_rank[2]]), torch.stack([torch.zeros(()), *norms]))
    for step, gradient in enumerate(gradients):
        close(torch.cat([of_rank[1][step] for of_rank in found]), world * gradient)
    for name, part in state.items():
        close(torch.cat([of_rank[3][name] for of_rank in found]), part)
    assert not norms or min(norms) > 0.3


def close(found, expected):
    assert float((found.double() - expected).norm()) <= 1e-5 * float(expected.double().norm().clamp_min(1e-30))


def faulty_fused(group, kind, in_backward):
    """A faulty fused step, and the steps after it."""
    return faulty(group, head_of(group, {**USUAL, "in_backward": in_backward}), batch, kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "DegenerateEmbeddingError: in step 1, which has changed nothing: embeddings of sample 2 is NaN"),
        ("outside", "ValueError: in step 1, which has changed nothing: the label of sample 2 is not a class id"),
        ("wrong_type", "TypeError: in step 1, which has changed nothing: labels must be int64"),
        ("no_tensor", "TypeError: in step 1, which has changed nothing: embeddings must be a tensor"),
        ("larger", "ValueError: in step 1, which has changed nothing: the batch of this rank alone is larger (6"),
        ("other_kind", "ValueError: in step 1, which has changed nothing: the batch of this rank alone is of another"),
    ],
)
def test_FusedStep_on_several_ranks_changes_nothing_if_one_batch_is_at_fault(processes, kind, message):
    found = processes.run(faulty_fused, 2, kind, kind != "outside")
    for rank, (loss, gradient, kept, error, after, kept_later) in enumerate(found):
        assert math.isnan(loss)
        assert gradient is None or not gradient.any()
        assert all(kept)
        assert error.startswith(f"step 2: {message if rank == 1 else OF_OTHER.format(1)}")
        assert after == found[0][4]
        assert not any(kept_later[:2])


def test_FusedStep_on_several_ranks_raises_everywhere_if_one_rank_scales_its_loss(processes):
    first, second = processes.run(faulty_fused, 2, "scaled", True)
    assert all(second[2])
    assert second[3].startswith(
        "step 3: RuntimeError: in step 2, which has changed nothing: in step 1 the loss was mul"
    )
    assert first[3].startswith(f"step 3: {OF_OTHER.format(2)}")
    assert first[4] == second[4]
