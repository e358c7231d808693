"""The head on a GPU against the definition in float64 on the CPU; run with TRITON_INTERPRET=0."""

from __future__ import annotations

import os

import pytest
import torch

from vplface import ArcFace, CosFace, FusedSGD, NormSoftmax, PrototypeHead, Variational
from vplface.softmax import tiles

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET=0"),
]
SIZES = [(9, 13, 8), (33, 1000, 96), (64, 3001, 512)]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-4}
"""Triton takes scale and rates as float32, in float64 too."""


def steps(device, dtype, sizes, margin, backend, variational, fused, autocast=False):
    """(losses, gradients of the embeddings, W, M) of five steps."""
    batch, classes, dim = sizes
    head = PrototypeHead(
        classes,
        dim,
        margin=margin,
        variational=variational,
        backend=backend,
        optimizer=FusedSGD(0.1) if fused else None,
        device=device,
        dtype=dtype,
    )
    optimizer = head.optimizer or torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    losses, gradients = [], []
    for step in range(5):
        g = torch.Generator().manual_seed(step)
        labels = torch.randint(classes, (batch,), generator=g)
        labels[:2] = classes - 1
        x = torch.randn(batch, dim, generator=g, dtype=torch.float64).to(device, dtype).requires_grad_()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = head(x, labels.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        gradients.append(x.grad)
    state = [head.weight.detach()] + ([] if head.memory is None else [head.memory])
    return [each.cpu().double() for each in (torch.stack(losses), torch.stack(gradients), *state)]


def distance(found, definition):
    """‖found − definition‖/‖definition‖ of each part."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, definition, strict=True)]


@pytest.fixture(params=[tiles.LARGE_TILE, 2**10], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(tiles, "LARGE_TILE", request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("margin", [NormSoftmax(16.0), ArcFace(64.0, 0.5), CosFace(120.0, 0.3)], ids=str)
@pytest.mark.parametrize("renormalise", [True, False, None])
def test_PrototypeHead_steps_on_a_gpu_match_the_reference_in_float64(backend, dtype, sizes, margin, renormalise):
    variational = None if renormalise is None else Variational(0.3, 3, 1, renormalise)
    definition = steps("cpu", torch.float64, sizes, margin, "reference", variational, False)
    found = steps("cuda", dtype, sizes, margin, backend, variational, backend == "triton")
    assert max(distance(found, definition)) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
def test_PrototypeHead_steps_in_bfloat16_on_a_gpu_stay_close_to_the_reference(backend):
    sizes, margin, variational = SIZES[-1], ArcFace(64.0, 0.5), Variational(0.3, 3, 1)
    definition = steps("cpu", torch.float64, sizes, margin, "reference", variational, False)
    found = steps("cuda", torch.float32, sizes, margin, backend, variational, True, autocast=True)
    assert max(distance(found, definition)) < 2e-2
