"""Faults of a batch in a fused step: nothing is written, and the next step raises an error."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs vplface[triton]")

from vplface import ArcFace, FusedSGD, PrototypeHead, Variational, clip_grad_norm_
from vplface.prototypes import CosineByAge
from vplface.prototypes.batch import DegenerateEmbeddingError

N, D, B = 40, 64, 8


def head_after_two_steps(**options):
    variational = Variational(0.3, 4, 0)
    optimizer = FusedSGD(0.1)
    head = PrototypeHead(
        N, D, margin=ArcFace(32.0), variational=variational, optimizer=optimizer, backend="triton", **options
    )
    for step in range(2):
        head(*batch(step)).backward()
    return head


def batch(step):
    g = torch.Generator().manual_seed(step)
    return torch.randn(B, D, generator=g), torch.randint(N, (B,), generator=g)


def state_of(head):
    head.finish_step()
    return [
        part.detach().clone()
        for part in (head.weight, head.optimizer.state[head.weight]["momentum_buffer"], head.memory, head.timer)
    ]


def nan(embeddings, labels):
    embeddings[3, 5] = torch.nan


def infinite(embeddings, labels):
    embeddings[3, 5] = -torch.inf


def zero(embeddings, labels):
    embeddings[3] = 0.0


def too_large(embeddings, labels):
    labels[3], labels[6] = N, -1


def negative(embeddings, labels):
    labels[3] = -1
    embeddings[5] = torch.nan


FAULTS = [
    (nan, DegenerateEmbeddingError, "embeddings of sample 3 is NaN or infinite"),
    (infinite, DegenerateEmbeddingError, "embeddings of sample 3 is NaN or infinite"),
    (zero, DegenerateEmbeddingError, "embeddings of sample 3 is zero"),
    (too_large, ValueError, rf"label of sample 3 is not a class id in \[0, {N}\)"),
    (negative, ValueError, rf"label of sample 3 is not a class id in \[0, {N}\)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "error", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_Faults_leave_the_state_and_are_raised_by_the_next_step(spoil, error, message):
    head = head_after_two_steps()
    head.by_age = CosineByAge()
    before = state_of(head)
    embeddings, labels = batch(2)
    spoil(embeddings, labels)
    loss = head(embeddings.requires_grad_(), labels)
    assert loss.isnan()
    loss.backward()
    assert not embeddings.grad.any()
    assert all(map(torch.equal, before, state_of(head)))
    with pytest.raises(error, match=f"step 2.*{message}"):
        head(*batch(3))
    assert all(map(torch.equal, before, state_of(head)))
    head(*batch(4)).backward()
    assert not any(map(torch.equal, before, state_of(head)))


@pytest.mark.slow
def test_Faults_of_a_loss_without_backward_are_raised_by_the_next_step():
    head = head_after_two_steps()
    before = state_of(head)
    embeddings, labels = batch(2)
    nan(embeddings, labels)
    loss = head(embeddings, labels)
    with pytest.raises(DegenerateEmbeddingError, match="step 2"):
        head(*batch(3))
    with pytest.raises(RuntimeError, match="another loss has been formed"):
        loss.backward()
    assert all(map(torch.equal, before, state_of(head)))


@pytest.mark.parametrize(("value", "message"), [(torch.nan, "NaN or infinite"), (0.0, "zero")])
def test_Faults_name_memory_embeddings(value, message):
    head = head_after_two_steps()
    before = state_of(head)
    embeddings, labels = batch(2)
    spoiled = embeddings.clone()
    spoiled[4] = value
    head(embeddings, labels, spoiled).backward()
    assert all(map(torch.equal, before, state_of(head)))
    with pytest.raises(DegenerateEmbeddingError, match=f"step 2.*memory_embeddings of sample 4 is {message}"):
        head(embeddings, labels)


def test_Faults_leave_the_state_where_FusedSGD_holds_the_gradient():
    optimizer = FusedSGD(0.1, in_backward=False)
    head = PrototypeHead(N, D, margin=ArcFace(32.0), optimizer=optimizer, backend="triton")
    weights = []
    for step in range(3):
        embeddings, labels = batch(step)
        if step == 2:
            zero(embeddings, labels)
        head.optimizer.zero_grad()
        head(embeddings, labels).backward()
        norm = clip_grad_norm_([], 0.5, head=head)
        head.optimizer.step()
        weights.append([head.weight.detach().clone(), head.optimizer.state[head.weight]["momentum_buffer"].clone()])
    assert norm == 0.0
    assert all(map(torch.equal, weights[1], weights[2]))
    assert not any(map(torch.equal, weights[0], weights[1]))
    with pytest.raises(DegenerateEmbeddingError, match="step 2"):
        head(*batch(3))


def test_Faults_include_a_scaled_loss():
    head = head_after_two_steps()
    before = state_of(head)
    (head(*batch(2)) * 2.0**16).backward()
    assert all(map(torch.equal, before, state_of(head)))
    with pytest.raises(RuntimeError, match=r"step 2.*as a GradScaler does"):
        head(*batch(3))


@pytest.mark.parametrize(("spoil", "error", "message"), FAULTS[2:4], ids=lambda value: getattr(value, "__name__", ""))
def test_PrototypeHead_with_validate_now_raises_in_the_step_itself(spoil, error, message):
    head = head_after_two_steps(validate="now")
    before = state_of(head)
    embeddings, labels = batch(2)
    spoil(embeddings, labels)
    with pytest.raises(error, match="sample 3"):
        head(embeddings, labels)
    assert head.step_count == 2
    assert all(map(torch.equal, before, state_of(head)))
    head(*batch(3)).backward()


def test_PrototypeHead_checks_types_and_shapes_of_a_fused_step_at_once():
    head = head_after_two_steps()
    embeddings, labels = batch(2)
    with pytest.raises(TypeError, match="labels must be int64"):
        head(embeddings, labels.int())
    with pytest.raises(ValueError, match=r"embeddings must be \[batch ≥ 1, 64\]"):
        head(embeddings[:, :9], labels)
    with pytest.raises(ValueError, match="must be on the device of W"):
        head(embeddings, labels.to("meta"))
    with pytest.raises(ValueError, match="validate must be"):
        PrototypeHead(N, D, validate="never")
