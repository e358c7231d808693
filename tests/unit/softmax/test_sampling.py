"""Steps over a sample of the classes, against a naive implementation that indexes the classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.backends import use_backend
from helpers.grids import BACKENDS
from vplface import ArcFace, FusedSGD, PrototypeHead, Variational
from vplface.softmax import drawn_classes, reference
from vplface.softmax.reference import margin_softmax


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request, monkeypatch):
    use_backend(monkeypatch, request.param)


@given(st.integers(0, 5000), st.integers(0, 300), st.floats(0.01, 0.99), st.integers(0, 2**31), st.integers(0, 10**6))
def test_drawn_classes_does_not_depend_on_the_shard(first, size, rate, seed, step):
    alone = drawn_classes(range(first + size), rate, seed, step)
    assert torch.equal(alone[first:], drawn_classes(range(first, first + size), rate, seed, step))


def test_drawn_classes_draws_the_rate_and_differs_between_steps():
    draws = torch.stack([drawn_classes(range(2000), 0.1, 3, step) for step in range(200)]).double()
    assert draws.mean().item() == pytest.approx(0.1, abs=5 * (0.09 / 400_000) ** 0.5)
    assert abs(torch.corrcoef(draws[:2])[0, 1]) < 0.1
    assert draws.mean(0).max() < 0.25  # no class is drawn much more often than others


def make(rate, fused=True, classes=40, dim=6):
    return PrototypeHead(
        classes,
        dim,
        margin=ArcFace(16.0, 0.3),
        variational=Variational(0.3, 3, 1),
        optimizer=FusedSGD(0.2, 0.9, 1e-2) if fused else None,
        sample_rate=rate,
        dtype=torch.float64,
        seed=5,
    )


def batches(steps, classes=40, dim=6, size=5):
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.randn(size, dim, generator=g, dtype=torch.float64), torch.randint(classes, (size,), generator=g)


def test_PrototypeHead_with_sample_rate_matches_a_naive_implementation():
    """Softmax over the rows that were drawn; SGD moves only these rows; the memory of all classes ages."""
    head = make(0.3)
    weight, momentum = head.weight.detach().clone(), torch.zeros(40, 6, dtype=torch.float64)
    memory, timer = torch.zeros_like(weight), torch.zeros(40, dtype=torch.int32)
    for step, (x, labels) in enumerate(batches(12)):
        leaf = x.clone().requires_grad_()
        loss = head(leaf, labels)
        loss.backward()
        head.optimizer.step()
        head.optimizer.zero_grad()
        drawn = drawn_classes(range(40), 0.3, 5, step)
        kept = sorted({*drawn.nonzero().flatten().tolist(), *labels.tolist()})
        assert len(kept) < 40
        rows = weight[kept].requires_grad_()
        y = x.clone().requires_grad_()
        features = torch.nn.functional.normalize(y)
        injection = None
        if step >= 1:
            from vplface.prototypes import Injection

            injection = Injection(memory[kept], timer[kept], 0.3)
        places = torch.tensor([kept.index(label) for label in labels.tolist()])
        naive = margin_softmax(features, places, rows, head.margin, injection)
        naive.backward()
        torch.testing.assert_close(loss, naive, atol=1e-12, rtol=0)
        torch.testing.assert_close(leaf.grad, y.grad, atol=1e-12, rtol=0)
        momentum[kept] = 0.9 * momentum[kept] + rows.grad + 1e-2 * weight[kept]
        weight[kept] = weight[kept] - 0.2 * momentum[kept]
        if step >= 1:
            timer = (timer - 1).clamp(min=0)
            for feature, label in zip(features.detach(), labels.tolist(), strict=True):
                memory[label], timer[label] = feature, 3
        torch.testing.assert_close(head.weight.detach(), weight, atol=1e-11, rtol=0)
        torch.testing.assert_close(head.optimizer.state[head.weight]["momentum_buffer"], momentum, atol=1e-11, rtol=0)
        if step >= 1:
            assert torch.equal(head.timer, timer)
            torch.testing.assert_close(head.memory, memory, atol=1e-12, rtol=0)


def test_PrototypeHead_with_sample_rate_gives_rows_not_drawn_no_gradient():
    head = make(0.2, fused=False)
    x, labels = next(batches(1))
    head(x, labels).backward()
    kept = drawn_classes(range(40), 0.2, 5, 0)
    kept[labels] = True
    assert (head.weight.grad[~kept] == 0).all()
    assert (head.weight.grad[kept].abs().sum(1) > 0).all()


def test_PrototypeHead_with_sample_rate_one_equals_no_sampling():
    heads = [make(1.0), PrototypeHead(40, 6, margin=ArcFace(16.0, 0.3), variational=Variational(0.3, 3, 1),
                                      optimizer=FusedSGD(0.2, 0.9, 1e-2), dtype=torch.float64, seed=5)]  # fmt: skip
    for x, labels in batches(5):
        losses = []
        for head in heads:
            loss = head(x, labels)
            loss.backward()
            head.optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[0] == losses[1]
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_PrototypeHead_with_sample_rate_evaluates_all_classes():
    head = make(0.1)
    x, labels = next(batches(1))
    with torch.no_grad():
        whole = reference.margin_softmax(torch.nn.functional.normalize(x), labels, head.weight, head.margin)
        torch.testing.assert_close(head(x, labels), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_PrototypeHead_refuses_a_sample_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="sample_rate"):
        make(rate)
