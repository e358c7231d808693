"""Threads that take pieces of work from a queue."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from vplface import ArcFace, FusedSGD, PrototypeHead, Variational
from vplface.parallel import map_pieces
from vplface.softmax import tiles


@pytest.fixture(autouse=True)
def torch_threads():
    """The number of torch's threads, as it was."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_map_pieces_returns_results_in_the_order_of_the_pieces(threads):
    torch.set_num_threads(threads)

    def work(piece: int, thread: int) -> tuple[int, int, bool]:
        time.sleep(0.002 * (piece % 3))
        return piece, thread, torch.is_grad_enabled()

    found = map_pieces(work, range(20))
    assert [piece for piece, _, _ in found] == list(range(20))
    assert {thread for _, thread, _ in found} <= set(range(threads))
    assert not any(grad for _, _, grad in found)
    assert map_pieces(work, []) == []


def test_map_pieces_gives_each_thread_one_thread_of_torch_and_leaves_the_callers_alone():
    torch.set_num_threads(3)
    meet = threading.Barrier(3)

    def work(piece: int, thread: int) -> tuple[int, str]:
        meet.wait(10)
        return torch.get_num_threads(), threading.current_thread().name

    found = map_pieces(work, range(3))
    assert [number for number, _ in found] == [1, 1, 1]
    assert len({name for _, name in found}) == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 3
    assert later == [3]


def test_map_pieces_raises_the_error_of_a_piece_once_all_threads_have_stopped():
    torch.set_num_threads(2)
    done = []

    def work(piece: int, thread: int) -> None:
        if piece == 1:
            raise KeyError("piece 1")
        time.sleep(0.05)
        done.append(piece)

    with pytest.raises(KeyError, match="piece 1"):
        map_pieces(work, range(100))
    count = len(done)
    assert count < 99
    time.sleep(0.1)
    assert len(done) == count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_map_pieces_works_in_a_forked_process():
    torch.set_num_threads(2)
    assert map_pieces(lambda piece, thread: piece, range(4)) == [0, 1, 2, 3]
    child = os.fork()
    if child == 0:
        os._exit(0 if map_pieces(lambda piece, thread: piece, range(4)) == [0, 1, 2, 3] else 1)
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it does not have")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_PrototypeHead_has_the_same_bits_with_any_number_of_threads(fused, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", {"cpu": 32 * 50})
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        optimizer = FusedSGD(0.1) if fused else None
        head = PrototypeHead(
            900, 32, margin=ArcFace(16.0), variational=Variational(0.3, 3, 1), optimizer=optimizer, dtype=dtype
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            x = torch.randn(9, 32, generator=generator).to(dtype).requires_grad_()
            loss = head(x, torch.randint(900, (9,), generator=generator))
            loss.backward()
        moved = head.weight.grad if head.optimizer is None else head.weight
        found.append((loss.detach(), x.grad, moved.detach().clone(), head.memory))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
