"""Fused steps of a head in Triton's interpreter against the definition in float64, and their memory and state."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("triton", reason="needs vplface[triton]")

from helpers.interpreter import mend_bfloat16_products, shuffle_programs
from vplface import (
    ArcFace,
    CombinedMargin,
    CosFace,
    FusedSGD,
    NormSoftmax,
    PrototypeHead,
    Variational,
    X2Softmax,
    clip_grad_norm_,
)
from vplface.prototypes import CosineByAge
from vplface.softmax.fused import fused_pass, kernels

N, D, B = 40, 64, 9
TWO_STEPS = Variational(0.3, 2, 0)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks of timers, the last one partial, and several groups of samples."""
    monkeypatch.setattr(fused_pass, "_BLOCK", 16)
    monkeypatch.setattr(fused_pass, "_SAMPLES", 4)


@pytest.fixture(autouse=True)
def _poisoned_buffers(monkeypatch):
    """Fill new tensors with NaN, so that a number that no kernel has written shows."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def head_of(backend="triton", dtype=torch.float32, margin=None, variational=TWO_STEPS, dim=D, **options):
    margin = ArcFace(64.0, 0.5) if margin is None else margin
    optimizer = FusedSGD(0.1, 0.9, 5e-4)
    head = PrototypeHead(
        N, dim, margin=margin, variational=variational, optimizer=optimizer, backend=backend, dtype=dtype, **options
    )
    assert ("(fused step)" in repr(head)) == (backend == "triton")
    return head


def batch(step, batch=B, dim=D):
    """Embeddings of any length and labels, of which several are equal."""
    g = torch.Generator().manual_seed(step)
    labels = torch.randint(N, (batch,), generator=g)
    labels[:3], labels[-2:] = N - 1, 5
    return 3 * torch.randn(batch, dim, generator=g), labels


def train(head, steps, batch_of=batch, backward=lambda step: True):
    """(loss, dL/de) of each step."""
    found = []
    for step in steps:
        embeddings, labels = batch_of(step)
        embeddings = embeddings.to(torch.promote_types(head.weight.dtype, embeddings.dtype)).requires_grad_()
        head.optimizer.zero_grad()
        loss = head(embeddings, labels)
        if backward(step):
            loss.backward()
        found.append((loss.detach(), embeddings.grad))
    return found


def state_of(head):
    head.finish_step()
    parts = [head.weight.detach(), head.optimizer.state[head.weight].get("momentum_buffer"), head.memory, head.timer]
    return [part.clone() for part in parts if part is not None]


def distance(found, definition):
    """The largest relative distance of losses, gradients and state."""
    pairs = zip(found, definition, strict=True)
    return max(float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)) for a, b in pairs)


def require_definition(head, definition, steps=range(3), tolerance=1e-5, **options):
    ours, theirs = train(head, steps, **options), train(definition, steps, **options)
    flat = [[each for pair in pairs for each in pair if each is not None] for pairs in (ours, theirs)]
    assert distance(*flat) < tolerance
    assert distance(state_of(head), state_of(definition)) < tolerance
    if head.timer is not None:
        assert torch.equal(head.timer, definition.timer)


@pytest.mark.parametrize("variational", [None, TWO_STEPS, Variational(0.3, 2, 1, renormalise=False)], ids=str)
def test_FusedStep_is_the_definition_over_several_steps(variational):
    require_definition(head_of(variational=variational), head_of("reference", torch.float64, variational=variational))


MARGINS = [NormSoftmax(16.0), CosFace(32.0, 0.3), ArcFace(64.0, 0.4, "detached"), CombinedMargin(32.0, 1.0, 0.2, 0.1)]


@pytest.mark.slow
@pytest.mark.parametrize("margin", [*MARGINS, CombinedMargin(16.0, 1.2, 0.2, 0.1), X2Softmax(32.0)], ids=str)
def test_FusedStep_takes_any_margin_of_the_cosine(margin):
    require_definition(head_of(margin=margin), head_of("reference", torch.float64, margin=margin), range(2))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "size"), [(128, 1), (512, 5), (256, 33)])
def test_FusedStep_takes_its_dimensions_and_any_batch(dim, size):
    def of_size(step):
        return batch(step, size, dim)

    heads = head_of(dim=dim), head_of("reference", torch.float64, dim=dim)
    require_definition(*heads, range(2), batch_of=of_size)


@pytest.mark.slow
def test_FusedStep_takes_a_smaller_last_batch():
    def shrinking(step):
        return batch(step, B - 2 * step)

    require_definition(head_of(), head_of("reference", torch.float64), range(3), batch_of=shrinking)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_FusedStep_takes_any_share_of_memory(lam):
    variational = Variational(lam, 2, 0)
    heads = head_of(variational=variational), head_of("reference", torch.float64, variational=variational)
    require_definition(*heads, range(3))


@pytest.mark.slow
def test_FusedStep_remembers_a_step_whose_loss_takes_no_backward_pass():
    heads = head_of(), head_of("reference", torch.float64)
    require_definition(*heads, backward=lambda step: step != 1)


@pytest.mark.slow
def test_FusedStep_remembers_the_embeddings_of_a_momentum_encoder():
    heads = head_of(), head_of("reference", torch.float64)
    for step in range(2):
        embeddings, labels = batch(step)
        for head in heads:
            head(embeddings, labels, embeddings.flip(0) + 1.0).backward()
    assert distance(state_of(heads[0]), state_of(heads[1])) < 1e-5


@pytest.mark.slow
def test_FusedStep_leaves_a_frozen_weight_and_gives_the_gradient_of_embeddings():
    heads = head_of(), head_of("reference", torch.float64)
    for head in heads:
        head.weight.requires_grad_(False)
    before = heads[0].weight.clone()
    require_definition(*heads, range(2))
    assert torch.equal(heads[0].weight, before)


@pytest.mark.slow
def test_FusedStep_counts_agreement_by_age():
    heads = head_of(), head_of("reference", torch.float64)
    for head in heads:
        head.by_age = CosineByAge()
        train(head, range(3))
    counted = [head.cosine_by_age() for head in heads]
    assert counted[0].keys() == counted[1].keys()
    for age, mean in counted[0].items():
        assert mean.samples == counted[1][age].samples
        assert mean.mean == pytest.approx(counted[1][age].mean, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "limits"), [(1, [0.5]), (2, [0.5]), (1, [0.5, 0.2])])
def test_FusedStep_clips_and_accumulates_a_gradient_that_FusedSGD_holds(parts, limits):
    heads = held_head("triton", torch.float32), held_head("reference", torch.float64)
    for step in range(3):
        norms, others = [], []
        for head in heads:
            head.optimizer.zero_grad()
            with head.micro_batches():
                for part in range(parts):
                    embeddings, labels = batch(2 * step + part)
                    (head(embeddings.to(head.weight.dtype), labels) / parts).backward()
            other = torch.nn.Parameter(torch.zeros(3, dtype=head.weight.dtype))
            other.grad = torch.full_like(other, 0.25 * step)
            norms.append(torch.stack([clip_grad_norm_([other], limit, head=head) for limit in limits]))
            others.append(other.grad)
            head.optimizer.step()
        torch.testing.assert_close(norms[0].double(), norms[1], rtol=1e-5, atol=0)
        torch.testing.assert_close(others[0].double(), others[1], rtol=1e-5, atol=0)
        assert (norms[1] > torch.tensor(limits)).all()
    assert distance(state_of(heads[0]), state_of(heads[1])) < 1e-5


def test_FusedStep_refuses_a_second_backward_pass_of_a_loss_whose_gradient_is_held():
    head = held_head("triton", torch.float32)
    loss = head(*batch(0))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="for one backward pass"):
        loss.backward()


def held_head(backend, dtype):
    optimizer = FusedSGD(0.1, 0.9, 5e-4, in_backward=False)
    return PrototypeHead(
        N, D, margin=ArcFace(32.0), variational=TWO_STEPS, optimizer=optimizer, backend=backend, dtype=dtype
    )


@pytest.mark.slow
def test_FusedStep_keeps_an_injection_that_somebody_holds():
    head = head_of()
    train(head, range(2))
    head.finish_step()
    held, before = head.injection, head.memory.clone()
    train(head, range(2, 4))
    assert not torch.equal(head.memory, before)
    with held.as_seen():
        assert torch.equal(held.memory, before)


@pytest.mark.slow
def test_FusedStep_evaluates_between_loss_and_backward():
    heads = head_of(), head_of()
    for step in range(3):
        embeddings, labels = batch(step)
        for evaluates, head in enumerate(heads):
            loss = head(embeddings, labels)
            if evaluates:
                head.eval()
                head(embeddings.flip(0), labels)
                head.train()
            loss.backward()
    assert all(map(torch.equal, state_of(heads[0]), state_of(heads[1])))


@pytest.mark.slow
def test_FusedStep_resumes_bit_for_bit():
    whole, first, second = head_of(), head_of(), head_of()
    train(whole, range(3))
    train(first, range(2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    train(second, range(2, 3))
    assert all(map(torch.equal, state_of(whole), state_of(second)))
    assert second.step_count == whole.step_count


@pytest.mark.slow
def test_FusedStep_sees_the_memory_of_its_forward_pass_if_the_step_ends_before_backward():
    heads = head_of(), head_of()
    for step in range(3):
        for ends_early, head in enumerate(heads):
            loss = head(*batch(step))
            if ends_early:
                head.state_dict()
            loss.backward()
    assert all(map(torch.equal, state_of(heads[0]), state_of(heads[1])))


@pytest.mark.slow
def test_FusedStep_of_a_copy_has_its_own_buffers():
    head = head_of()
    train(head, range(1))
    embeddings, labels = batch(1)
    loss = head(embeddings, labels)
    other = copy.deepcopy(head)
    train(other, range(2, 3))
    loss.backward()
    again = head_of()
    train(again, range(2))
    assert all(map(torch.equal, state_of(head), state_of(again)))


def test_FusedStep_refuses_the_backward_pass_of_an_older_loss():
    head = head_of()
    older = head(*batch(0))
    head(*batch(1))
    with pytest.raises(RuntimeError, match="another loss has been formed since"):
        older.backward()


def test_FusedStep_refuses_a_second_backward_pass_and_a_second_derivative():
    head = head_of()
    loss = head(*batch(0))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="W has changed since this loss was computed"):
        loss.backward()
    with pytest.raises(RuntimeError, match="no second derivative"):
        head(*batch(1)).backward(create_graph=True)


@pytest.mark.parametrize("others", [None, 3.0])
@pytest.mark.parametrize("before", [None, 0.25])
@pytest.mark.parametrize("count", [1, 100])
def test_clip_adds_the_squares_of_all_norms(others, before, count):
    norms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    of_others, factor = (torch.tensor(0.0 if value is None else value) for value in (others, before))
    found, clipped = torch.zeros(()), torch.zeros(())
    options = {"OTHERS": others is not None, "AGAIN": before is not None, "BLOCK": 16}
    for max_norm in (0.5, 1e6):
        kernels.clip[(1,)](norms, of_others, factor, found, clipped, count, max_norm, **options)
        held = torch.linalg.vector_norm(norms.double()) * (before or 1.0)
        expected = torch.hypot(held, torch.tensor(others or 0.0).double())
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
        limit = (max_norm / (expected + 1e-6)).clamp(max=1.0)
        torch.testing.assert_close(clipped.double(), (before or 1.0) * limit, rtol=1e-6, atol=0)
    norms[0] = torch.nan
    kernels.clip[(1,)](norms, of_others, factor, found, clipped, count, 1.0, **options)
    assert found.isnan()
    assert clipped.isnan()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: head_of(), lambda: held_head("triton", torch.float32)], ids=["moved", "held"])
def test_FusedStep_gives_the_same_bits_in_any_order_of_programs(monkeypatch, make):
    found = []
    for seed in (None, None, 1):
        with monkeypatch.context() as patch:
            if seed is not None:
                shuffle_programs(patch, seed)
            head = make()
            steps = train(head, range(2))
            if not head.optimizer.in_backward:
                steps.append((clip_grad_norm_([], 0.5, head=head), head.optimizer.step() or head.weight.detach()))
            found.append([*state_of(head), *(each for pair in steps for each in pair)])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.slow
def test_FusedStep_with_products_in_bfloat16_is_near_the_definition(monkeypatch):
    mend_bfloat16_products(monkeypatch)
    head, definition = head_of(margin=ArcFace(16.0, 0.3)), head_of("reference", torch.float64, ArcFace(16.0, 0.3))
    with torch.autocast("cpu", torch.bfloat16):
        train(head, range(3))
    train(definition, range(3))
    assert distance(state_of(head), state_of(definition)) < 2e-2
