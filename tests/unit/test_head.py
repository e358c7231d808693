import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vplface
from helpers.backends import use_backend
from helpers.grids import BACKENDS
from vplface import ArcFace, CosFace, NormSoftmax, PrototypeHead, Variational
from vplface.prototypes import Injection
from vplface.softmax.reference import margin_softmax


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request, monkeypatch):
    """Every test of the head holds for every backend."""
    use_backend(monkeypatch, request.param)


def batch(head, size, seed=0, labels=None):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, head.embedding_dim, generator=g, dtype=head.weight.dtype)
    y = torch.randint(head.num_classes, (size,), generator=g) if labels is None else torch.tensor(labels)
    return x.requires_grad_(), y


def step(head, size=4, seed=0, labels=None):
    x, y = batch(head, size, seed, labels)
    loss = head(x, y)
    loss.backward()
    return x, y, loss


def make(classes=7, dim=5, lam=0.3, delta_t=3, start=2, dtype=torch.float64, **kwargs):
    return PrototypeHead(
        classes, dim, variational=Variational(lam, delta_t, start), margin=ArcFace(16.0, 0.4), dtype=dtype, **kwargs
    )


def test_vplface_lists_the_public_names_and_PrototypeHead_defaults_to_ArcFace():
    for name in ("PrototypeHead", "Variational", "ArcFace", "CosFace", "NormSoftmax", "CombinedMargin", "Embedder"):
        assert name in vplface.__all__
    assert isinstance(PrototypeHead(3, 2).margin, ArcFace)
    assert PrototypeHead(3, 2).margin.scale == 64.0


def test_PrototypeHead_creates_its_memory_at_the_start_step():
    head = make(start=2)
    for expected in (1, 2):
        step(head)
        assert head.memory is None
        assert head.timer is None
        assert head.step_count == expected
        assert set(head.state_dict()) == {"weight", "step_count"}
    x, _, _ = step(head, labels=[0, 1, 2, 1])
    assert head.step_count == 3
    assert head.timer.tolist() == [3, 3, 3, 0, 0, 0, 0]
    assert head.timer.dtype == torch.int32
    unit = (x / x.norm(dim=1, keepdim=True)).detach()
    torch.testing.assert_close(head.memory[[0, 1, 2]], unit[[0, 3, 2]])
    assert not head.memory[3:].any()


def test_PrototypeHead_injects_memory_from_the_step_after_the_start():
    head = make(start=0)
    x, y = batch(head, 4)
    unit = torch.nn.functional.normalize(x, dim=1)
    first = head(x, y)
    torch.testing.assert_close(first, margin_softmax(unit, y, head.weight, head.margin))
    first.backward()
    injection = Injection(head.memory.clone(), head.timer.clone(), 0.3, True)
    second = head(x, y)
    torch.testing.assert_close(second, margin_softmax(unit, y, head.weight, head.margin, injection))
    assert abs(second - first) > 1e-3


def test_PrototypeHead_injects_a_class_in_the_delta_t_steps_after_it_is_seen():
    head = make(delta_t=3, start=0)
    step(head, labels=[6, 6, 6, 6])
    for remaining in (3, 2, 1, 0, 0):
        assert int(head.timer[6]) == remaining
        u = head.variational_prototypes()
        v = torch.nn.functional.normalize(head.weight, dim=1)
        assert torch.equal(u[6], v[6]) == (remaining == 0)
        step(head, labels=[0, 1, 2, 3])


@given(
    st.integers(2, 8),
    st.integers(0, 3),
    st.integers(1, 4),
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=9),
)
def test_PrototypeHead_memory_and_timer_match_a_naive_simulation(classes, start, delta_t, batches):
    head = make(classes, 3, delta_t=delta_t, start=start)
    memory = timer = None
    for number, raw in enumerate(batches):
        labels = [label % classes for label in raw]
        if number == start:
            memory, timer = {}, [0] * classes
        x, _, _ = step(head, len(labels), seed=number, labels=labels)
        assert head.step_count == number + 1
        if timer is None:
            assert head.timer is None
            continue
        timer = [delta_t if c in labels else max(t - 1, 0) for c, t in enumerate(timer)]
        for row, label in enumerate(labels):
            memory[label] = (x[row] / x[row].norm()).detach()
        assert head.timer.tolist() == timer
        assert head.coverage() == pytest.approx(sum(t > 0 for t in timer) / classes)
        for label, feature in memory.items():
            torch.testing.assert_close(head.memory[label], feature)


def test_PrototypeHead_backward_uses_the_memory_of_its_forward():
    head = make(start=0)
    step(head, seed=1)
    head.zero_grad()
    x, y = batch(head, 4, seed=2)
    memory, timer = head.memory.clone(), head.timer.clone()
    loss = head(x, y)
    assert torch.equal(head.memory, memory)
    loss.backward()
    assert not torch.equal(head.memory, memory)
    expected = torch.autograd.grad(
        margin_softmax(
            torch.nn.functional.normalize(x, dim=1), y, head.weight, head.margin, Injection(memory, timer, 0.3, True)
        ),
        [x, head.weight],
    )
    torch.testing.assert_close(x.grad, expected[0])
    torch.testing.assert_close(head.weight.grad, expected[1])


def test_PrototypeHead_counts_a_forward_without_backward_as_a_step():
    head = make(start=0)
    head(*batch(head, 4, seed=1, labels=[0, 1, 2, 3]))
    step(head, labels=[4, 4, 4, 4])
    assert head.step_count == 2
    assert head.timer.tolist() == [2, 2, 2, 2, 3, 0, 0]


def test_PrototypeHead_in_eval_or_no_grad_is_plain_and_writes_nothing():
    head = make(start=0)
    step(head)
    before = copy.deepcopy(head.state_dict())
    x, y = batch(head, 4, seed=3)
    plain = margin_softmax(torch.nn.functional.normalize(x, dim=1), y, head.weight, head.margin)
    with torch.no_grad():
        torch.testing.assert_close(head(x, y), plain)
    head.eval()
    torch.testing.assert_close(head(x, y), plain)
    head(x, y).backward()
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_PrototypeHead_in_eval_creates_no_memory():
    head = make(start=0).eval()
    head(*batch(head, 4))
    assert head.memory is None


def test_PrototypeHead_remembers_the_memory_embeddings_if_given():
    head = make(start=0)
    x, y = batch(head, 3, labels=[0, 1, 2])
    other, _ = batch(head, 3, seed=9)
    head(x, y, other).backward()
    torch.testing.assert_close(head.memory[:3], torch.nn.functional.normalize(other, dim=1).detach())
    assert other.grad is None


def test_PrototypeHead_micro_batches_equal_one_step():
    whole, parts = make(start=0), make(start=0)
    for seed in range(4):
        x, y = batch(whole, 6, seed=seed)
        whole(x, y).backward()
        with parts.micro_batches():
            for piece in (slice(0, 2), slice(2, 6)):
                loss = parts(x[piece].detach(), y[piece]) * (len(y[piece]) / 6)
                loss.backward()
    torch.testing.assert_close(whole.weight.grad, parts.weight.grad, atol=1e-12, rtol=1e-10)
    assert whole.step_count == parts.step_count == 4
    assert torch.equal(whole.timer, parts.timer)
    torch.testing.assert_close(whole.memory, parts.memory)


def test_PrototypeHead_micro_batches_refuse_nesting_and_discard_a_failed_step():
    head = make(start=0)
    with head.micro_batches(), pytest.raises(RuntimeError, match="nested"), head.micro_batches():
        pass
    x, y = batch(head, 2)

    def interrupted():
        with head.micro_batches():
            head(x, y)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert head.step_count == 0
    step(head)
    assert head.step_count == 1


@pytest.mark.parametrize("steps", [1, 4])
def test_PrototypeHead_state_dict_round_trips(steps):
    head = make(start=2)
    for seed in range(steps):
        step(head, seed=seed)
    state = head.state_dict()
    assert set(state) == ({"weight", "step_count"} if steps < 3 else {"weight", "step_count", "memory", "timer"})
    fresh = make(start=2, seed=5)
    assert fresh.load_state_dict(state).missing_keys == []
    assert fresh.step_count == steps
    for a, b in ((head.memory, fresh.memory), (head.timer, fresh.timer), (head.weight, fresh.weight)):
        assert (a is None and b is None) or torch.equal(a, b)
    for seed in range(10, 16):
        assert step(head, seed=seed)[2] == step(fresh, seed=seed)[2]


def test_PrototypeHead_load_state_dict_of_an_early_state_removes_the_memory():
    early = make(start=2).state_dict()
    head = make(start=0)
    step(head)
    head.load_state_dict(early)
    assert head.memory is None
    assert head.step_count == 0


def test_PrototypeHead_load_state_dict_refuses_states_that_do_not_fit():
    state = make().state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(classes=8).load_state_dict(state)
    with pytest.raises(RuntimeError, match="strange"):
        make().load_state_dict({**state, "strange": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="step_count"):
        make().load_state_dict({"weight": state["weight"]})
    with pytest.raises(RuntimeError, match="weight"):
        make().load_state_dict({"step_count": state["step_count"]})


def test_PrototypeHead_memory_follows_casts_and_moves_unless_memory_dtype_is_given():
    head = make(start=0, dtype=torch.float32)
    step(head)
    head.double()
    assert head.memory.dtype == torch.float64
    assert head.timer.dtype == torch.int32
    kept = make(start=0, memory_dtype=torch.bfloat16)
    step(kept)
    before = kept.memory.clone()
    kept.float().double()
    assert kept.memory.dtype == torch.bfloat16
    assert torch.equal(kept.memory, before)
    assert kept.to("meta").memory.device.type == "meta"


def test_PrototypeHead_with_bfloat16_memory_stays_close_to_float64():
    exact, low = make(start=0), make(start=0, memory_dtype=torch.bfloat16)
    for seed in range(5):
        a, b = step(exact, seed=seed)[2], step(low, seed=seed)[2]
    assert a != b
    torch.testing.assert_close(a, b, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_PrototypeHead_accepts_embeddings_of_any_float_dtype(dtype):
    head = make(start=0, dtype=torch.float32)
    x, y = batch(head, 4)
    x = x.detach().to(dtype).requires_grad_()
    for _ in range(2):
        loss = head(x, y)
        loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.dtype == dtype


def test_PrototypeHead_draws_its_weight_from_the_seed_by_class_id():
    assert torch.equal(PrototypeHead(10, 4).weight, PrototypeHead(10_000, 4).weight[:10])
    assert not torch.equal(PrototypeHead(10, 4).weight, PrototypeHead(10, 4, seed=1).weight)
    big = PrototypeHead(9000, 4).weight
    assert not torch.equal(big[:1000], big[4096:5096])
    assert float(big.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_PrototypeHead_gradient_scales_with_the_loss():
    one, three = make(), make()
    x, y = batch(one, 4)
    one(x, y).backward()
    (3 * three(x, y)).backward()
    torch.testing.assert_close(three.weight.grad, 3 * one.weight.grad)


def test_PrototypeHead_deepcopy_keeps_the_state():
    head = make(start=0)
    step(head)
    twin = copy.deepcopy(head)
    assert step(head, seed=1)[2] == step(twin, seed=1)[2]


@pytest.mark.parametrize("margin", [NormSoftmax(8.0), CosFace(8.0, 0.2), ArcFace(8.0, 0.3)])
def test_PrototypeHead_training_separates_two_classes(margin):
    head = PrototypeHead(2, 3, margin=margin, variational=Variational(0.2, 5, 3), dtype=torch.float64)
    x = torch.tensor([[1.0, 0.1, 0.0], [0.9, 0.0, 0.1], [0.0, 0.2, 1.0], [0.1, 0.0, 0.9]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = head(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert head.coverage() == 1.0


GOOD_X, GOOD_Y = torch.ones(2, 5, dtype=torch.float64), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (GOOD_X, torch.tensor([0, 7]), ValueError, r"label 7 of sample 1 is not a class id in \[0, 7\)"),
        (GOOD_X, torch.tensor([-1, 0]), ValueError, "label -1 of sample 0"),
        (GOOD_X, GOOD_Y.int(), TypeError, "int64"),
        (GOOD_X, GOOD_Y.double(), TypeError, "int64"),
        (GOOD_X.long(), GOOD_Y, TypeError, "floating-point"),
        (GOOD_X[:, :4], GOOD_Y, ValueError, "5"),
        (GOOD_X[0], GOOD_Y, ValueError, "batch"),
        (GOOD_X[:0], GOOD_Y[:0], ValueError, "batch"),
        (GOOD_X, GOOD_Y[:1], ValueError, "labels"),
        (GOOD_X, GOOD_Y.unsqueeze(1), ValueError, "labels"),
        (GOOD_X * torch.tensor([[1.0], [math.nan]]), GOOD_Y, ValueError, "sample 1 is NaN or infinite"),
        (GOOD_X * torch.tensor([[math.inf], [1.0]]), GOOD_Y, ValueError, "sample 0 is NaN or infinite"),
        (GOOD_X * torch.tensor([[1.0], [0.0]]), GOOD_Y, ValueError, "sample 1 is zero"),
    ],
)
def test_PrototypeHead_names_the_sample_of_bad_input_and_keeps_its_state(x, y, error, message):
    head = make(start=0)
    with pytest.raises(error, match=message):
        head(x, y)
    assert head.step_count == 0
    assert head.memory is None


def test_PrototypeHead_refuses_bad_memory_embeddings():
    head = make(start=0)
    with pytest.raises(ValueError, match="memory_embeddings of sample 0 is NaN"):
        head(GOOD_X, GOOD_Y, GOOD_X * math.nan)
    with pytest.raises(ValueError, match="memory_embeddings holds 1 rows"):
        head(GOOD_X, GOOD_Y, GOOD_X[:1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 1}, "2 classes"),
        ({"num_classes": 0}, "2 classes"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"backend": "cuda"}, "backend"),
        ({"seed": -1}, "seed|non-negative"),
    ],
)
def test_PrototypeHead_refuses_invalid_sizes_backend_and_seed(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PrototypeHead(**{"num_classes": 3, "embedding_dim": 4, **kwargs})


def waiting(delta_t=2, **options):
    return PrototypeHead(3, 2, variational=Variational(0.3, delta_t, "auto"), seed=1, **options)


def see(head, *labels):
    g = torch.Generator().manual_seed(sum(labels))
    head(torch.randn(len(labels), 2, generator=g), torch.tensor(labels)).backward()


def test_PrototypeHead_begin_equals_a_fixed_start_at_the_next_step():
    began, fixed = waiting(), PrototypeHead(3, 2, variational=Variational(0.3, 2, 2), seed=1)
    for number, labels in enumerate([(0, 1), (2, 1), (1,), (0,), (2, 2)]):
        if number == 2:
            assert began.memory is None
            assert not began.remembers
            began.begin()
        see(began, *labels)
        see(fixed, *labels)
    assert torch.equal(began.timer, fixed.timer)
    assert torch.equal(began.memory, fixed.memory)
    assert torch.equal(began.weight.grad, fixed.weight.grad)
    assert (began.begun_at, began.delta_t) == (fixed.begun_at, fixed.delta_t) == (2, 2)


def test_PrototypeHead_state_dict_keeps_begun_at_and_delta_t():
    head = waiting(delta_t=None)
    see(head, 0, 1)
    waits = head.state_dict()  # with a place for both, which loaders fill that fill what they find
    assert (int(waits["begun_at"]), int(waits["delta_t"])) == (-1, -1)
    head.begin(4)
    state = head.state_dict()  # begun, and nothing remembered yet
    assert (int(state["begun_at"]), int(state["delta_t"])) == (1, 4)
    fresh = waiting(delta_t=None)
    fresh.load_state_dict(state)
    for one in (head, fresh):
        see(one, 1, 2)
        assert one.timer.tolist() == [0, 4, 4]
    again = waiting(delta_t=None)
    again.load_state_dict(head.state_dict())
    assert (again.begun_at, again.delta_t, again.timer.tolist()) == (1, 4, [0, 4, 4])
    again.load_state_dict(waiting(delta_t=None).state_dict())  # of a head that waits
    assert (again.begun_at, again.delta_t, again.memory) == (None, None, None)


def test_PrototypeHead_state_dict_with_a_fixed_start_has_no_begun_at():
    head = PrototypeHead(3, 2, variational=Variational(0.3, 2, 0))
    see(head, 0, 1)
    assert set(head.state_dict()) == {"weight", "memory", "timer", "step_count"}


def test_PrototypeHead_begin_refuses_invalid_calls():
    with pytest.raises(RuntimeError, match="plain prototypes"):
        PrototypeHead(3, 2).begin()
    with pytest.raises(ValueError, match="at least 1 step, got delta_t=None"):
        waiting(delta_t=None).begin()
    with pytest.raises(ValueError, match="delta_t=0"):
        waiting().begin(0)
    head = waiting()
    with head.micro_batches(), pytest.raises(RuntimeError, match="inside micro_batches"):
        head.begin()
    head.begin()
    see(head, 0)
    with pytest.raises(RuntimeError, match="has begun at step 0"):
        head.begin()
    with pytest.raises(RuntimeError, match="does not say Δt"):
        waiting(delta_t=None).load_state_dict({k: v for k, v in head.state_dict().items() if k != "delta_t"})
    with pytest.raises(ValueError, match='needs start="auto"'):
        Variational(0.1, None, 5)
    with pytest.raises(ValueError, match="start must be 'auto' or"):
        Variational(0.1, 5, "late")
