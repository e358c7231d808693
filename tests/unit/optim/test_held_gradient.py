"""The gradient of W between backward() and step()."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vplface import CosFace, FusedSGD, PrototypeHead, Variational, clip_grad_norm_
from vplface.optim import fused_sgd
from vplface.optim.held_gradient import HeldGradient
from vplface.softmax import tiles

TILES = [slice(first, min(first + 7, 40)) for first in range(0, 40, 7)]


def make(**options):
    options = {"variational": Variational(0.3, 2, 1), "optimizer": FusedSGD(0.1, in_backward=False), **options}
    return PrototypeHead(9, 4, margin=CosFace(8.0), **options)


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, generator=g).requires_grad_(), torch.randint(9, (5,), generator=g)


def written(tiles, gradient, threads=1, weight=None):
    held, weight = HeldGradient(), torch.zeros_like(gradient) if weight is None else weight
    held.begin_pass()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda rows: held.write(weight, rows, gradient[rows], None), tiles))
    return held


def test_HeldGradient_norm_has_the_same_bits_in_any_order_and_from_several_threads():
    gradient = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    expected = written(TILES, gradient).norm()
    torch.testing.assert_close(expected, torch.linalg.vector_norm(gradient))
    for seed in range(20):
        order = torch.randperm(len(TILES), generator=torch.Generator().manual_seed(seed)).tolist()
        held = written([TILES[place] for place in order], gradient, threads=3)
        assert torch.equal(held.norm(), expected)
        assert torch.equal(held.total()[1], gradient)


def test_HeldGradient_is_rounded_to_the_type_of_w_and_its_norm_is_not():
    gradient = torch.randn(40, 5)
    held = written(TILES, gradient, weight=torch.zeros(40, 5, dtype=torch.bfloat16))
    assert held.total()[1].dtype == torch.bfloat16
    assert held.norm().dtype == torch.float32
    torch.testing.assert_close(held.norm(), torch.linalg.vector_norm(held.total()[1].float()))


def test_HeldGradient_of_which_rows_are_missing_is_refused():
    held = written(TILES[:-1], torch.randn(40, 5))
    for use in (held.norm, held.total, held.begin_pass):
        with pytest.raises(RuntimeError, match="incomplete"):
            use()
    held.clear()
    assert held.norm() is None


def test_HeldGradient_adds_passes_that_drew_other_rows():
    weight, held = torch.zeros(9, 2), HeldGradient()
    for among, value in (([1, 4, 8], 1.0), ([0, 4], 2.0), ([4, 8], 3.0)):
        held.begin_pass()
        held.write(weight, slice(0, len(among)), torch.full((len(among), 2), value), torch.tensor(among))
    rows, gradient = held.total()
    assert rows.tolist() == [0, 1, 4, 8]
    assert gradient[:, 0].tolist() == [2.0, 1.0, 6.0, 4.0]
    torch.testing.assert_close(held.norm(), torch.linalg.vector_norm(gradient))


def test_HeldGradient_takes_no_new_memory_in_the_next_step():
    head, places = make(), set()
    for seed in range(3):
        head.zero_grad()
        head(*batch(seed)).backward()
        places.add(head.optimizer._held.total()[1].data_ptr())
        head.optimizer.step()
    assert len(places) == 1


def test_FusedSGD_moves_w_in_its_step_where_it_was_told_to():
    held, at_once = make(), make(optimizer=FusedSGD(0.1))
    for seed in range(4):
        before = held.weight.detach().clone()
        held(*batch(seed)).backward()
        at_once(*batch(seed)).backward()
        assert torch.equal(held.weight, before)
        for head in (held, at_once):
            head.optimizer.step()
            head.optimizer.zero_grad()
        torch.testing.assert_close(held.weight, at_once.weight)
    buffers = [head.optimizer.state_dict()["state"][0]["momentum_buffer"] for head in (held, at_once)]
    torch.testing.assert_close(*buffers)


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_FusedSGD_takes_a_clipped_step_with_the_same_bits_by_any_number_of_threads(monkeypatch, sample_rate):
    monkeypatch.setattr(fused_sgd, "_PIECE", 32 * 7)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 32 * 50})
    number, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        optimizer = FusedSGD(0.1, in_backward=False)
        head = PrototypeHead(900, 32, margin=CosFace(8.0), optimizer=optimizer, sample_rate=sample_rate)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            head.optimizer.zero_grad()
            x = torch.randn(9, 32, generator=generator).requires_grad_()
            head(x, torch.randint(900, (9,), generator=generator)).backward()
            norm = clip_grad_norm_([], 0.1, head=head)
            head.optimizer.step()
        found.append((norm, head.weight.detach(), head.optimizer.state[head.weight]["momentum_buffer"]))
    torch.set_num_threads(number)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_FusedSGD_forgets_a_held_gradient_when_any_module_zeroes_it():
    for forget in (lambda head: head.zero_grad(), lambda head: head.optimizer.zero_grad(), lambda head: head.float()):
        head = make()
        before = head.weight.detach().clone()
        head(*batch()).backward()
        forget(head)
        head.optimizer.step()
        assert torch.equal(head.weight, before)
        twin = make()
        for each in (head, twin):
            each(*batch(1)).backward()
        if head.step_count == twin.step_count:
            torch.testing.assert_close(head.optimizer.grad_norm(), twin.optimizer.grad_norm())


def test_FusedSGD_adds_backward_passes_until_zero_grad():
    head, plain = make(dtype=torch.float64), make(dtype=torch.float64, optimizer=None)
    for each in (head, plain):
        losses = [each(*(part.double() if part.is_floating_point() else part for part in batch(s))) for s in (0, 1)]
        for loss in losses:
            loss.backward(retain_graph=True)
        losses[1].backward()
    torch.testing.assert_close(head.optimizer._held.total()[1], plain.weight.grad)


def test_FusedSGD_refuses_a_loss_that_was_formed_before_its_step():
    head = make()
    loss = head(*batch())
    head(*batch(1)).backward()
    head.optimizer.step()
    with pytest.raises(RuntimeError, match="W has changed since this loss was computed"):
        loss.backward()


def test_FusedSGD_refuses_other_uses_of_a_held_gradient():
    head = make()
    head(*batch()).backward()
    for use in (
        lambda: torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0),
        lambda: torch.optim.SGD(head.parameters(), lr=0.1).step(),
        lambda: head.weight.square().sum().backward(),
    ):
        with pytest.raises(RuntimeError, match=r"until step\(\)"):
            use()
    assert "until step()" in repr(head.weight.grad)


def test_FusedSGD_copies_move_w_at_the_same_place_without_the_gradient():
    head = make()
    head(*batch()).backward()
    twin = copy.deepcopy(head)
    before = twin.weight.detach().clone()
    twin.optimizer.step()
    assert torch.equal(twin.weight, before)
    twin(*batch(1)).backward()
    assert torch.equal(twin.weight, before)
    twin.optimizer.step()
    assert not torch.equal(twin.weight, before)


def test_FusedSGD_state_is_that_of_a_head_that_moves_in_backward():
    held, at_once = make(), make(optimizer=FusedSGD(0.1))
    for head in (held, at_once):
        head(*batch()).backward()
        head.optimizer.step()
    assert held.optimizer.state_dict()["param_groups"] == at_once.optimizer.state_dict()["param_groups"]
    held.optimizer.load_state_dict(at_once.optimizer.state_dict())
    assert not held.optimizer.in_backward
