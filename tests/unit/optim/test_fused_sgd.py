"""FusedSGD in backward: an optimiser of torch, which refuses whatever needs the gradient of W."""

from __future__ import annotations

import copy

import pytest
import torch

from vplface import CosFace, FusedSGD, PrototypeHead, Variational
from vplface.softmax import BACKENDS


def make(backend="tiled", optimizer=FusedSGD(0.1), seed=0, **settings):  # noqa: B008
    variational = Variational(0.3, 2, 1)
    return PrototypeHead(
        9, 4, margin=CosFace(8.0), variational=variational, optimizer=optimizer, backend=backend, seed=seed, **settings
    )


def batch(seed=0, size=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=g).requires_grad_(), torch.randint(9, (size,), generator=g)


@pytest.fixture(params=BACKENDS)
def head(request):
    return make(request.param)


def test_FusedSGD_moves_the_weight_in_backward_and_not_in_step(head):
    before = head.weight.detach().clone()
    loss = head(*batch())
    assert torch.equal(head.weight, before)
    loss.backward()
    moved = head.weight.detach().clone()
    assert not torch.equal(moved, before)
    head.optimizer.step()
    assert torch.equal(head.weight, moved)


def test_FusedSGD_is_a_torch_optimizer_with_schedules_and_state(head):
    assert isinstance(head.optimizer, torch.optim.Optimizer)
    schedule = torch.optim.lr_scheduler.StepLR(head.optimizer, 1, 0.0)
    head(*batch()).backward()
    head.optimizer.step()
    schedule.step()
    state = copy.deepcopy(head.optimizer.state_dict())
    assert state["param_groups"][0]["lr"] == 0.0
    assert state["state"][0]["momentum_buffer"].shape == head.weight.shape
    before = head.weight.detach().clone()
    head(*batch(1)).backward()
    assert torch.equal(head.weight, before), "a learning rate of 0 moves nothing"


def test_FusedSGD_state_loads_into_another_head_and_into_torch_SGD():
    one = make()
    for seed in range(4):
        one(*batch(seed)).backward()
    two, plain = make(seed=3), make(optimizer=None)
    sgd = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.5)
    for head, optimizer in ((two, two.optimizer), (plain, sgd)):
        head.load_state_dict(one.state_dict())
        optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    sgd.param_groups[0].update(dampening=0)
    for head in (one, two, plain):
        head(*batch(9)).backward()
    sgd.step()
    torch.testing.assert_close(two.weight, one.weight)
    torch.testing.assert_close(plain.weight, one.weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_FusedSGD_deepcopy_and_cast_keep_weight_and_momentum_together(momentum):
    head = make(optimizer=FusedSGD(0.1, momentum=momentum))
    head(*batch()).backward()
    twin = copy.deepcopy(head)
    assert twin.optimizer.param_groups[0]["params"][0] is twin.weight
    for each in (head, twin):
        each(*batch(1)).backward()
    torch.testing.assert_close(twin.weight, head.weight)
    twin.double()
    twin(batch(2)[0].double(), batch(2)[1]).backward()
    head(*batch(2)).backward()
    torch.testing.assert_close(twin.weight.float(), head.weight)


def test_FusedSGD_leaves_a_frozen_weight_unchanged():
    head = make()
    head.weight.requires_grad_(False)
    before = head.weight.clone()
    x, y = batch()
    head(x, y).backward()
    assert torch.equal(head.weight, before)
    assert x.grad.abs().sum() > 0


def test_FusedSGD_in_eval_mode_passes_gradients_and_moves_no_weight(head):
    head.eval()
    before = head.weight.detach().clone()
    x, y = batch()
    head(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert torch.equal(head.weight, before)
    assert head.weight.grad is None


def test_FusedSGD_refuses_a_second_backward(head):
    loss = head(*batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="W has changed since this loss was computed"):
        loss.backward()


def test_FusedSGD_refuses_the_backward_of_a_loss_from_before_the_weight_moved(head):
    first, second = head(*batch()), head(*batch(1))
    first.backward()
    with pytest.raises(RuntimeError, match="W has changed since this loss was computed"):
        second.backward()


def test_FusedSGD_refuses_every_use_of_the_weight_gradient(head):
    head(*batch()).backward()
    for use in (
        lambda: torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0),
        lambda: torch.nn.utils.clip_grad_value_(head.parameters(), 1.0),
        lambda: torch.optim.SGD(head.parameters(), lr=0.1).step(),
        lambda: torch.optim.AdamW(head.parameters(), lr=0.1).step(),
        lambda: head.weight.square().sum().backward(),
        lambda: head.weight.grad + 1,
    ):
        with pytest.raises(RuntimeError, match=r"used it up during backward.*optimizer=None"):
            use()
    assert "FusedSGD" in repr(head.weight.grad)


def test_FusedSGD_refuses_a_GradScaler():
    head = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(head(*batch())).backward()
    with pytest.raises(RuntimeError, match="GradScaler"):
        scaler.step(head.optimizer)


def test_FusedSGD_refuses_a_weight_gradient_from_another_loss(head):
    head.weight.square().sum().backward()
    with pytest.raises(RuntimeError, match="did not come from the head's loss"):
        head(*batch()).backward()
    with pytest.raises(RuntimeError, match="did not come from the head's loss"):
        head.optimizer.step()
    head.optimizer.zero_grad()
    head(*batch()).backward()


def test_FusedSGD_accepts_one_micro_batch_and_refuses_a_second(head):
    whole = copy.deepcopy(head)
    whole(*batch()).backward()
    with head.micro_batches():
        head(*batch()).backward()
    torch.testing.assert_close(head.weight, whole.weight)
    with head.micro_batches():
        head(*batch()).backward()
        with pytest.raises(RuntimeError, match="micro-batches"):
            head(*batch())


def test_FusedSGD_refuses_other_parameters_and_invalid_values():
    with pytest.raises(ValueError, match="nothing else"):
        make().optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    for wrong in ({"lr": 0.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "weight_decay": -1.0}):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            FusedSGD(**wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_PrototypeSGD_has_its_momentum_before_threads_move_rows(dtype):
    head = PrototypeHead(5, 3, optimizer=FusedSGD(0.1), dtype=dtype)
    head.optimizer.begin_backward()
    assert head.optimizer.state[head.weight]["momentum_buffer"].shape == (5, 3)
    plain = PrototypeHead(5, 3, optimizer=FusedSGD(0.1, momentum=0.0), dtype=dtype)
    plain.optimizer.begin_backward()
    assert not plain.optimizer.state[plain.weight]
