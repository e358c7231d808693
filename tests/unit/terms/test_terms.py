"""Each term against its equation, worked out by hand for a few samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from vplface import EPL, UNPG, XBM, BroadFace, NormSoftmax, PrototypeHead, UniTSFace
from vplface.terms import Batch
from vplface.terms.queue import Queue


def circle(*degrees):
    """Unit vectors in the plane, whose cosines are those of their differences."""
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


def cos(degrees):
    return math.cos(math.radians(degrees))


def batch(features, labels, scale=4.0, step=0, **changes):
    return Batch(features, torch.tensor(labels), scale, step, changes.get("prototypes"), changes.get("softmax"))


def bound(term, classes=3, dim=2):
    return term.bind(classes, dim).double()


def test_UniTSFace_loss_matches_a_hand_computed_value():
    term = bound(UniTSFace(scale=4.0, margin=0.1, threshold=0.25, weight=2.0))
    loss = term.loss(batch(circle(0, 40, 90), [0, 0, 1]))
    assert float(term.bias.detach()) == 1.0
    pulled = math.log(1 + math.exp(1.0 - 4 * (cos(40) - 0.1)))
    first = pulled + math.log(1 + math.exp(4 * cos(90) - 1.0))
    second = pulled + math.log(1 + math.exp(4 * cos(50) - 1.0))
    third = math.log(1 + math.exp(4 * cos(90) - 1.0) + math.exp(4 * cos(50) - 1.0))  # without a positive
    assert loss.item() == pytest.approx(2.0 * (first + second + third) / 3)
    assert float(term.value) == pytest.approx((first + second + third) / 3)


def test_UniTSFace_loss_is_the_mean_over_several_positives():
    loss = bound(UniTSFace(4.0, threshold=0.0)).loss(batch(circle(0, 30, 60), [5, 5, 5]))
    near, far = math.log(1 + math.exp(-4 * cos(30))), math.log(1 + math.exp(-4 * cos(60)))
    assert loss.item() == pytest.approx(((near + far) / 2 + near + (near + far) / 2) / 3)


def test_UniTSFace_gradient_matches_finite_differences_and_moves_the_threshold():
    term = bound(UniTSFace(4.0, 0.1, 0.2))
    x = circle(0, 40, 90, 200).requires_grad_()

    def loss(x, bias):
        term.bias.data = bias.data
        return torch.func.functional_call(term, {"bias": bias}, (batch(x, [0, 0, 1, 1]),))

    term.forward = term.loss
    assert torch.autograd.gradcheck(loss, (x, torch.tensor(0.8, dtype=torch.float64, requires_grad=True)))
    # All positive pairs above the threshold, all negative pairs above it too: it has to rise.
    crowd = bound(UniTSFace(20.0, threshold=0.0))
    crowd.loss(batch(circle(0, 1, 2, 3), [0, 0, 1, 1])).backward()
    assert crowd.bias.grad < 0


def test_UNPG_negatives_match_hand_computed_values():
    logits = bound(UNPG()).negatives(batch(circle(0, 40, 90), [0, 0, 1]))
    expected = [4 * cos(90), 4 * cos(50), math.log(math.exp(4 * cos(90)) + math.exp(4 * cos(50)))]
    assert logits.tolist() == pytest.approx(expected)


def test_UNPG_negatives_leave_out_pairs_beyond_the_whiskers():
    far = circle(0, 90, 180, 270, 0.5)  # the last is the first under another label
    term = bound(UNPG(0.5))
    logits = term.negatives(batch(far, [0, 1, 2, 3, 4]))
    values = (far @ far.T)[torch.ones(5, 5, dtype=torch.bool).triu(1)]
    low, high = values.quantile(0.25), values.quantile(0.75)
    top, bottom = high + 0.5 * (high - low), low - 0.5 * (high - low)
    assert values.max() > top
    for i in range(5):
        own = [float(far[i] @ far[j]) for j in range(5) if j != i and bottom <= far[i] @ far[j] <= top]
        assert float(logits[i]) == pytest.approx(math.log(sum(math.exp(4 * c) for c in own)))
    everything = bound(UNPG(math.inf)).negatives(batch(far, [0, 1, 2, 3, 4]))
    all_four = sum(math.exp(4 * float(far[0] @ far[j])) for j in range(1, 5))
    assert float(everything[0]) == pytest.approx(math.log(all_four))


def test_UNPG_negatives_of_one_class_are_minus_infinity_without_gradient():
    x = circle(0, 40).requires_grad_()
    logits = bound(UNPG()).negatives(batch(x, [1, 1]))
    assert logits.tolist() == [-math.inf, -math.inf]
    logits.exp().sum().backward()
    assert not x.grad.any()


def test_UNPG_negatives_gradient_matches_differences_for_both_samples():
    x = circle(0, 40, 90, 200).requires_grad_()
    term = bound(UNPG(10.0))
    assert torch.autograd.gradcheck(lambda x: term.negatives(batch(x, [0, 1, 2, 1])), (x,))
    term.negatives(batch(x, [0, 1, 2, 1]))[0].backward()
    assert (x.grad.norm(dim=1) > 1e-3).all()


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.sampled_from([0.25, 0.5, 0.75]))
def test_quantile_matches_torch(values, share):
    from vplface.terms.unpg import _quantile

    ascending = torch.tensor(values, dtype=torch.float64).sort().values
    padded = torch.cat([ascending, ascending.new_full((3,), torch.inf)])
    assert float(_quantile(padded, torch.tensor(len(values)), share)) == pytest.approx(
        float(ascending.quantile(share)), abs=1e-12
    )


def test_XBM_loss_matches_a_hand_computed_value():
    term = bound(XBM(size=3, positive_margin=0.9, negative_margin=0.5, start=0, weight=2.0))
    term.remember(circle(20, 100), torch.tensor([0, 1]), None)
    loss = term.loss(batch(circle(0, 70), [0, 1]))
    # sample 0: pull from (20°, class 0); push (100°, 1) and (70°, 1) if above .5; sample 1: the like
    first = max(0.9 - cos(20), 0) + max(cos(100) - 0.5, 0) + max(cos(70) - 0.5, 0)
    second = max(cos(50) - 0.5, 0) + max(0.9 - cos(30), 0) + max(cos(70) - 0.5, 0)
    assert second > 0.1
    assert loss.item() == pytest.approx(2.0 * (first + second) / 2)


def test_XBM_loss_gradient_treats_references_as_constants():
    term = bound(XBM(size=4, start=0))
    term.remember(circle(20, 100, 33), torch.tensor([0, 1, 1]), None)
    x = circle(0, 40, 75).requires_grad_()
    references, labels = torch.cat([x.detach(), circle(20, 100, 33)]), torch.tensor([0, 1, 1, 0, 1, 1])
    expected = torch.zeros_like(x)
    for i, label in enumerate([0, 1, 1]):
        for j in range(6):
            if i == j:
                continue
            cosine = float(x.detach()[i] @ references[j])
            expected[i] += -references[j] if label == labels[j] else references[j] * (cosine > 0.5)
    (gradient,) = torch.autograd.grad(term.loss(batch(x, [0, 1, 1])), x)
    torch.testing.assert_close(gradient, expected / 3)


def test_XBM_loss_waits_for_its_start_while_the_queue_fills():
    term = bound(XBM(size=3, start=2))
    assert term.loss(batch(circle(0), [0], step=1)) is None
    term.remember(circle(20), torch.tensor([0]), None)
    assert term.loss(batch(circle(0), [0], step=2)).item() == pytest.approx(1 - cos(20))


@given(st.integers(1, 6), st.lists(st.integers(0, 8), max_size=8))
def test_Queue_holds_the_last_samples(size, counts):
    queue, everything = Queue(size, 1), []
    for count in counts:
        new = list(range(len(everything), len(everything) + count))
        held = queue.rows
        copy = held.clone()
        queue.add(torch.tensor(new, dtype=torch.float32).reshape(-1, 1), torch.tensor(new, dtype=torch.int64))
        assert torch.equal(held, copy)  # what a forward pass saw stays
        everything += new
    assert len(queue) == min(size, len(everything))
    assert sorted(queue.labels.tolist()) == everything[-size:]
    assert queue.rows.flatten().tolist() == queue.labels.tolist()
    again = Queue(size, 1)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.rows, queue.rows)


def test_BroadFace_past_matches_hand_computed_values():
    term = bound(BroadFace(size=4, start=0))
    before, after = circle(0, 90), circle(30, 90)
    assert term.past(batch(circle(10), [0], prototypes=lambda labels: before[labels])) is None
    term.remember(circle(10), torch.tensor([0]), None)
    features, labels = term.past(batch(circle(80), [1], prototypes=lambda labels: after[labels]))
    carried = [cos(10) + cos(30) - cos(0), math.sin(math.radians(10)) + math.sin(math.radians(30))]
    length = math.hypot(*carried)
    assert features.flatten().tolist() == pytest.approx([c / length for c in carried])
    assert labels.tolist() == [0]
    still = circle(0, 90)
    unmoved, _ = term.past(batch(circle(80), [1], prototypes=lambda labels: still[labels]))
    torch.testing.assert_close(unmoved, circle(10))


def head(*terms, backend="reference"):
    made = PrototypeHead(3, 2, margin=NormSoftmax(4.0), terms=terms, backend=backend, dtype=torch.float64)
    made.weight.data = circle(0, 100, 200)
    return made


def test_BroadFace_trains_prototypes_with_the_queue_and_the_encoder_with_the_batch():
    plain, broad = head(), head(BroadFace(4, start=0))
    broad(circle(20, 130), torch.tensor([0, 1])).backward()
    broad.zero_grad()
    x, labels = circle(10), torch.tensor([2])
    here, there = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss = broad(here, labels)
    loss.backward()
    batch_loss = plain(there, labels)
    batch_loss.backward()
    torch.testing.assert_close(here.grad, there.grad)
    of_batch = plain.weight.grad.clone()
    plain.zero_grad()
    queue_loss = plain(circle(20, 130), torch.tensor([0, 1]))
    queue_loss.backward()
    torch.testing.assert_close(loss, (batch_loss + 2 * queue_loss) / 3)
    torch.testing.assert_close(broad.weight.grad, (of_batch + 2 * plain.weight.grad) / 3)


def test_EPL_remember_matches_hand_computed_values():
    term = bound(EPL())
    x = circle(0, 60, 30)
    term.remember(x[:1], torch.tensor([1]), torch.tensor([1]))
    torch.testing.assert_close(term.empirical[1], x[0])
    term.remember(x[1:], torch.tensor([1, 1]), torch.tensor([1, 1]))
    first = 1 / (1 + math.exp(-cos(60)))
    once = first * x[0] + (1 - first) * x[1]
    second = 1 / (1 + math.exp(-float(once @ x[2]) / float(once.norm())))
    torch.testing.assert_close(term.empirical[1], second * once + (1 - second) * x[2])
    assert term.seen.tolist() == [0, 1, 0]


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_EPL_loss_and_gradient_match_hand_computed_values(backend):
    made = head(EPL(margin=0.5, start=0, weight=2.0), backend=backend)
    made(circle(20), torch.tensor([0])).backward()
    made.zero_grad()
    x = circle(70).requires_grad_()
    plain = head(backend=backend)
    other = circle(70).requires_grad_()
    ordinary = plain(other, torch.tensor([0]))
    ordinary.backward()
    loss = made(x, torch.tensor([0]))
    loss.backward()
    own, others = math.exp(4 * 0.5 * cos(50)), [math.exp(4 * cos(30)), math.exp(4 * cos(130))]
    assert (loss - ordinary).item() == pytest.approx(2.0 * math.log((own + sum(others)) / own))
    # P is constant: no gradient but that of the ordinary loss reaches W; the margin is constant, too.
    torch.testing.assert_close(made.weight.grad, plain.weight.grad)
    p = [e / (own + sum(others)) for e in (own, *others)]
    rows = torch.cat([circle(20), circle(100, 200)])
    raw = 2 * 4 * (torch.tensor([p[0] - 1, *p[1:]], dtype=torch.float64) @ rows)
    unit = x.detach()[0]
    torch.testing.assert_close(x.grad[0], other.grad[0] + raw - (raw @ unit) * unit)


def test_EPL_loss_pulls_a_sample_to_the_empirical_prototype_of_its_class():
    made = head(EPL(start=0))
    made(circle(50, 50), torch.tensor([0, 0])).backward()
    x = circle(60).requires_grad_()
    label = torch.tensor([0])

    def over_constants(injection, margin):
        return made._softmax.loss_over_constants(x, label, made.weight, margin, injection, 1)

    seen = batch(x, [0], step=1, softmax=over_constants)
    made.terms["epl"].loss(seen).backward()
    assert float(-x.grad[0] @ circle(-30)[0]) > 0  # down the circle, from 60° to 50°


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniTSFace(scale=0), "scale must be positive"),
        (lambda: UniTSFace(margin=-0.1), "margin must not be negative"),
        (lambda: UniTSFace(threshold=2.0), "threshold must be a cosine"),
        (lambda: UniTSFace(weight=math.nan), "weight must be positive"),
        (lambda: UNPG(-1.0), "whisker must not be negative"),
        (lambda: XBM(size=0), "size must be at least 1"),
        (lambda: XBM(start=-1), "start must be a step count"),
        (lambda: XBM(negative_margin=1.5), "negative_margin must be a cosine"),
        (lambda: BroadFace(size=-3), "size must be at least 1"),
        (lambda: EPL(margin=1.5), "margin must be a share"),
        (lambda: EPL(start=-1), "start must be a step count"),
        (lambda: head(UNPG(), UNPG(1.0)), "several UNPG"),
    ],
)
def test_Term_refuses_invalid_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_BroadFace_past_features_have_unit_norm():
    term = bound(BroadFace(size=8, start=0))
    g = torch.Generator().manual_seed(0)
    prototypes = [normalize(torch.randn(3, 2, generator=g, dtype=torch.float64), dim=1) for _ in range(2)]
    x = normalize(torch.randn(6, 2, generator=g, dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    term.past(batch(x, labels.tolist(), prototypes=lambda y: prototypes[0][y]))
    term.remember(x, labels, labels)
    features, _ = term.past(batch(x, labels.tolist(), prototypes=lambda y: prototypes[1][y]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6, dtype=torch.float64))
