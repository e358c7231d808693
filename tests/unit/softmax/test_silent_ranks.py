"""Tiled steps of ranks on devices that the host does not wait for: they compute what one process computes."""

from __future__ import annotations

import math
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

from helpers.faulty_ranks import OF_OTHER, faulty
from helpers.heads import READING, SILENT, made_silent, optimizers_of, take_step
from vplface import clip_grad_norm_, devices
from vplface.prototypes import CosineByAge
from vplface.ranks import Ranks

N, D = 37, 6
SIZES = [[4, 3], [4, 3], [2, 5], [2, 5]]
"""Samples of each rank in each step. They change once, on all ranks."""
EXACT = [name for name, options in {**SILENT, **READING}.items() if "dtype" not in options]


@contextmanager
def silent():
    """The CPU as a device that the host does not wait for; yields the number of agreements on sizes."""
    agreed = []

    def agree(self, columns, of_ranks=Ranks.agree):
        agreed.append(len(columns))
        return of_ranks(self, columns)

    with patch.object(devices, "reading_waits", lambda device: True), patch.object(Ranks, "agree", agree):
        yield agreed


def batch(step, size, dtype=torch.float64):
    """Samples of few classes, several of them twice or more."""
    g = torch.Generator().manual_seed(step)
    labels = torch.randint(N // 3, (size,), generator=g)
    labels[-1] = labels[0]
    centres = torch.randn(N, D, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (centres[labels] + 0.7 * torch.randn(size, D, generator=g, dtype=torch.float64)).to(dtype), labels


def head_of(group, name, dtype=torch.float64, classes=N):
    options = {key: value for key, value in SILENT.get(name, READING.get(name)).items() if key != "backend"}
    return made_silent({"dtype": dtype, **options}, classes, D, backend="tiled", process_group=group)


def rows_of(group, sizes):
    first = 0 if group is None else sum(sizes[: group.rank()])
    return slice(None) if group is None else slice(first, first + sizes[group.rank()])


def trajectory(group, name, sizes, classes=N, known=False):
    """Losses, gradients of the embeddings of this rank, and the state at the end: rows here, and what is shared."""
    head = head_of(group, name, classes=classes)
    head.by_age = CosineByAge()
    optimizers, losses, gradients = optimizers_of(head), [], []
    for step, of_ranks in enumerate(sizes):
        inputs, labels = batch(step, sum(of_ranks))
        own = rows_of(group, of_ranks)
        embeddings = inputs[own].clone().requires_grad_()
        if known:
            head.ranks.sizes = of_ranks
        losses.append(take_step(head, optimizers, embeddings, labels[own] % classes))
        gradients.append(embeddings.grad)
    ages = {age: tuple(mean) for age, mean in head.cosine_by_age().items()}
    state = {key: value for key, value in head.state_dict().items() if isinstance(value, torch.Tensor)}
    shared = {key: state.pop(key) for key in list(state) if key in head.shared_state}
    return losses, gradients, state, (shared, ages)


def silent_trajectories(group, names, sizes, classes, known):
    found = {}
    for name in names:
        with silent() as agreed:
            found[name] = trajectory(group, name, sizes, classes, known)
        assert len(agreed) == (1 if known else 2), name
    return found


@pytest.mark.parametrize(
    ("names", "sizes", "classes", "known"),
    [
        (EXACT, SIZES, N, False),
        (["FusedSGD", "MagFace", "XBM"], [[4, 3], [4, 2], [1, 2], [1, 6]], N, True),
        (["FusedSGD", "sample_rate", "sample_rate, torch's SGD", "subcenters", "AdaFace", "CurricularFace", "Gaussian"],
         [[1, 2, 1], [1, 2, 1], [3, 1, 2], [3, 1, 2]], 2, False),
    ],
    ids=["every kind", "known sizes", "a rank without classes"],
)  # fmt: skip
def test_PrototypeHead_on_silent_ranks_is_one_process(processes, names, sizes, classes, known):
    world = len(sizes[0])
    found = processes.run(silent_trajectories, world, names, sizes, classes, known)
    for name in names:
        losses, gradients, state, shared = trajectory(None, name, sizes, classes)
        of_ranks = [each[name] for each in found]
        for rank in of_ranks:
            close(rank[0], losses, name)
            close(rank[3], shared, name)
        for step, gradient in enumerate(gradients):
            close(torch.cat([rank[1][step] for rank in of_ranks]), world * gradient, name)
        for key, rows in state.items():
            close(torch.cat([rank[2][key] for rank in of_ranks]), rows, f"{name}: {key}")


def close(found, expected, name):
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8, msg=lambda text: f"{name}: {text}")


def in_parts(group, name, sizes):
    """State after steps in two parts each, whose sizes differ between ranks and parts."""
    head = head_of(group, name)
    for step in range(3):
        inputs, labels = batch(step, sum(map(sum, sizes)))
        head.optimizer.zero_grad()
        with head.micro_batches():
            first = 0
            for of_ranks in sizes if group is not None else [[sum(map(sum, sizes))]]:
                own = rows_of(group, of_ranks)
                part = slice(first, first + sum(of_ranks))
                share = sum(of_ranks) / len(labels)
                (share * head(inputs[part][own], labels[part][own])).backward()
                first += sum(of_ranks)
        clip_grad_norm_([], 5.0, head=head)
        head.optimizer.step()
    head.finish_step()
    return head.weight.detach(), head.optimizer.state[head.weight]["momentum_buffer"], head.timer


def silent_parts(group, name, sizes):
    with silent() as agreed:
        return in_parts(group, name, sizes), len(agreed)


def test_PrototypeHead_on_silent_ranks_agrees_on_the_sizes_of_each_part_once(processes):
    name, sizes = "a gradient that is held", [[3, 2], [1, 2]]
    alone = in_parts(None, name, sizes)
    found = processes.run(silent_parts, 2, name, sizes)
    for part, expected in zip(zip(*(state for state, _ in found), strict=True), alone, strict=True):
        close(torch.cat(part), expected, name)
    assert [agreed for _, agreed in found] == [2, 2]


def faulty_tiled(group, name, kind):
    """A faulty step of a tiled head, and the steps after it."""
    with silent():
        return faulty(group, head_of(group, name, torch.float32), small_batch, kind)


def small_batch(number, size):
    return batch(number, size, torch.float32)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("nan", "FusedSGD", ("DegenerateEmbeddingError", "embeddings of sample 2 is NaN")),
        ("outside", "Gaussian", ("ValueError", "the label of sample 2 is not a class id")),
        ("wrong_type", "AdaFace", ("TypeError", "labels must be int64")),
        ("no_tensor", "XBM", ("TypeError", "embeddings must be a tensor")),
        ("larger", "MagFace", ("ValueError", "the batch of this rank alone is of another size (6 samples)")),
        ("smaller", "EPL", ("ValueError", "the batch of this rank alone is of another size (1 samples)")),
        ("no_gradient", "sample_rate", ("ValueError", "the batch of this rank alone is of another kind")),
    ],
)
def test_PrototypeHead_on_silent_ranks_changes_nothing_if_one_batch_is_at_fault(processes, kind, name, message):
    found = processes.run(faulty_tiled, 2, name, kind)
    for rank, (loss, gradient, kept, error, after, kept_later) in enumerate(found):
        assert math.isnan(loss)
        assert gradient is None or not gradient.any()
        assert all(kept)
        own = f"{message[0]}: in step 1, which has changed nothing: {message[1]}"
        assert error.startswith(f"step 2: {own if rank == 1 else OF_OTHER.format(1)}")
        assert after == found[0][4]
        assert not math.isnan(after)
        assert not any(kept_later[:2])


@pytest.mark.parametrize("name", ["FusedSGD", "Gaussian"])
def test_PrototypeHead_on_silent_ranks_raises_everywhere_if_one_rank_scales_its_loss(processes, name):
    first, second = processes.run(faulty_tiled, 2, name, "scaled")
    assert second[2][:2] == [True, True]
    assert second[3].startswith(
        "step 3: RuntimeError: in step 2, which has changed nothing: in step 1 the loss was mul"
    )
    assert first[3].startswith(f"step 3: {OF_OTHER.format(2)}")
    assert first[4] == second[4]
