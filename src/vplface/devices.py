"""Devices that the host does not wait for: what it must not read there, and how it sends them numbers.

On a CUDA device a read waits for all the work that the host has started. There a mask is a ``torch.where`` of fixed
size, numbers that the host draws go through pinned memory, and what the device finds out is looked at a step later.
The device ``"meta"`` stands for a CUDA device.
"""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def reading_waits(device: torch.device) -> bool:
    """Whether a read on the host waits for the device."""
    return device.type in ("cuda", "meta")


def send(tensor: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """A tensor of the host on a device, without a wait for the copy."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=reading_waits(device))


class SentNumber:
    """A whole number on its way from a device to the host.

    Args:
        number: on the device.
    """

    def __init__(self, number: Int[Tensor, 1]) -> None:
        cuda, meta = number.is_cuda, number.is_meta
        self._host = torch.empty(1, dtype=number.dtype, device="meta" if meta else "cpu", pin_memory=cuda)
        self._host.copy_(number, non_blocking=True)
        self._arrived = torch.cuda.current_stream(number.device).record_event() if cuda else None

    def read(self) -> int | None:
        """The number, for which the host waits unless it has arrived; None on ``"meta"``."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return None if self._host.is_meta else int(self._host[0])


def autocast_type(device: torch.device) -> str:
    """The kind of device, as autocast names it."""
    return "cuda" if device.type == "meta" else device.type


def without_autocast(device: torch.device) -> torch.autocast:
    """While active, operations on the device run in the types of their inputs."""
    return torch.autocast(autocast_type(device), enabled=False)
