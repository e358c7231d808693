"""Heads on a chosen backend, for tests that build heads with ``backend="auto"``."""

from __future__ import annotations

import pytest

from vplface.softmax import head_softmax
from vplface.softmax.tiled import TiledSoftmax


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Make ``backend="auto"`` mean ``backend`` on every device."""
    monkeypatch.setattr(head_softmax, "fastest_backend", lambda device: backend)


def use_tiled_softmax(monkeypatch: pytest.MonkeyPatch, implementation: type[TiledSoftmax]) -> None:
    """Let ``implementation`` compute every tiled softmax of a head."""
    monkeypatch.setattr(head_softmax, "tiled_softmax_for", lambda backend, device: implementation)
