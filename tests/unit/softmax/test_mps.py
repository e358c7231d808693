"""The head on Apple's MPS in float32, as MPS has no float64. Not run on such hardware so far."""

from __future__ import annotations

import pytest
import torch

from vplface import PrototypeHead, Variational


@pytest.mark.gpu
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's MPS")
@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_PrototypeHead_step_on_mps_matches_the_cpu(backend: str) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(8, 16), torch.arange(8) % 5
    weights = []
    for device in ("cpu", "mps"):
        head = PrototypeHead(7, 16, variational=Variational(delta_t=3, start=0), backend=backend, device=device)
        for _ in range(2):
            loss = head(embeddings.to(device), labels.to(device))
            head.zero_grad()
            loss.backward()
        assert head.weight.grad is not None
        weights.append((loss.detach().cpu(), head.weight.grad.cpu()))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
