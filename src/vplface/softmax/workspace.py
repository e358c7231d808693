"""Memory that is kept from step to step: pages that are new to a process cost more than the arithmetic on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Workspace:
    """Named buffers that grow as needed and are used again, not copied with what owns them, and never saved.

    Args:
        limit_mb: MiB that a caller may spend on what it could compute again.

    Attributes:
        limit: the same in bytes.
        user: whose contents the buffers hold. Who finds somebody else here has lost what it kept.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit = int(limit_mb * 2**20)
        self.user: object = None
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A contiguous tensor whose contents are whatever was left there."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size or buffer.dtype != dtype or buffer.device != device:
            self._buffers[name] = buffer = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return Workspace, (self.limit / 2**20,)
