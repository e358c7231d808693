"""Heads on a chosen backend, for tests that build heads with ``backend="auto"``."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from vplface.margins import Margin
from vplface.prototypes import Injection
from vplface.softmax import SoftmaxProblem, Workspace, head_softmax, tiled
from vplface.softmax.tiles import TileOperations


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Make ``backend="auto"`` mean ``backend`` on every device."""
    monkeypatch.setattr(head_softmax, "fastest_backend", lambda device: backend)


def use_operations(monkeypatch: pytest.MonkeyPatch, operations: TileOperations) -> None:
    """Let ``operations`` compute the tiles of every head."""
    monkeypatch.setattr(head_softmax, "tile_operations", lambda backend, device: operations)


def operations_named(name: str) -> TileOperations:
    """``torch``, ``numba`` or ``triton``; skips the test where that is not installed."""
    module = {"torch": "tiles", "numba": "numba_tiles", "triton": "triton_tiles"}[name]
    found = pytest.importorskip(f"vplface.softmax.{module}", reason="an extra is not installed")
    operations: TileOperations = getattr(found, f"{name.title()}Tiles")()
    return operations


def tiled_softmax(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    margin: Margin,
    injection: Injection | None = None,
    *,
    negatives: Tensor | None = None,
    workspace: Workspace,
    **options: Any,
) -> Tensor:
    """``tiled.margin_softmax`` with the arguments of the definition."""
    problem = SoftmaxProblem(features, labels, weight, margin, injection, negatives=negatives)
    return tiled.margin_softmax(problem, workspace=workspace, **options)
