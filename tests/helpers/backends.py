"""Heads on a chosen backend, for tests that build heads with ``backend="auto"``."""

from __future__ import annotations

import pytest

from vplface.softmax import head_softmax
from vplface.softmax.tiled import Walk


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Make ``backend="auto"`` mean ``backend`` on every device."""
    monkeypatch.setattr(head_softmax, "fastest_backend", lambda device: backend)


def use_walk(monkeypatch: pytest.MonkeyPatch, walk: type[Walk]) -> None:
    """Let ``walk`` compute every tiled softmax of a head."""
    monkeypatch.setattr(head_softmax, "walk_of", lambda backend, device: walk)
