"""Bytes that the kernels of a fused step move, counted in Triton's interpreter, against those of the roofline."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs vplface[triton]")

from torch.nn.functional import normalize

from helpers.interpreter import counted_bytes, mend_bfloat16_products
from vplface import ArcFace, FusedSGD, PrototypeHead, Variational, clip_grad_norm_
from vplface.softmax.fused.tiles import tiles_for

N, B, D, OPERAND = 256, 32, 64, 2
ALIVE = 0.5


def roofline(held):
    """{kernel: (bytes loaded, bytes stored)}; what ``move`` loads twice comes from the L2 cache the second time."""
    matrix, kept, samples, vector = 4 * N * D, OPERAND * N * B, B * D, 4 * N
    operands = OPERAND * N * D
    tiles = tiles_for(torch.device("cpu"), torch.bfloat16)
    blocks, across = B // tiles.forward.columns, D // min(tiles.pull.columns, D)
    splits = tiles.programs // (B // tiles.pull.rows * across)
    return {
        "prepare": (matrix * (1 + ALIVE) + vector, operands + 4 * vector),
        "forward": (blocks * (operands + vector) + N // tiles.forward.rows * OPERAND * samples, kept),
        "pull": (across * kept + B // tiles.pull.rows * operands, splits * 4 * samples),
        "move": (
            matrix * (2 + 2 * ALIVE + (not held)) + 4 * vector + kept + N // tiles.move.rows * OPERAND * samples,
            matrix * (1 if held else 2),
        ),
        "close": ((4 * splits + 4 + OPERAND) * samples, (4 + OPERAND) * samples),
        "remember": (4 * samples + 4 * B * B + vector, 4 * samples + vector),
        **({"update": (3 * matrix, 2 * matrix)} if held else {}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True])
def test_FusedStep_moves_the_bytes_of_the_roofline(monkeypatch, held):
    mend_bfloat16_products(monkeypatch)
    g = torch.Generator().manual_seed(0)
    variational = Variational(0.15, 10**6, 0)
    optimizer = FusedSGD(0.1, in_backward=not held)
    head = PrototypeHead(N, D, margin=ArcFace(), variational=variational, optimizer=optimizer, backend="triton")
    head.create_memory()
    head.memory = normalize(torch.randn(N, D, generator=g))
    head.timer = (torch.arange(N) < ALIVE * N).int() * 10**6
    labels = torch.randperm(N, generator=g)[:B]
    with counted_bytes(monkeypatch) as (loaded, stored), torch.autocast("cpu", torch.bfloat16):
        head(torch.randn(B, D, generator=g, requires_grad=True), labels).backward()
        if held:
            clip_grad_norm_([], 5.0, head=head)
        head.optimizer.step()
    for name, (loads, stores) in roofline(held).items():
        assert loaded[name] == pytest.approx(loads, rel=0.1), name
        assert stored[name] == pytest.approx(stores, rel=0.1), name
    beside = sum((loaded + stored)[name] for name in ("own", "finish", "clip"))
    assert beside < 0.1 * (loaded + stored).total()
