"""Copies of tensors in host memory, through pinned memory if they are on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from jaxtyping import Shaped
from torch import Tensor

from vplface.reading import MEBIBYTE

_CHUNK = 64 * MEBIBYTE
"""Bytes of each of the two pinned buffers."""


class Event(Protocol):
    """A point in the work of a GPU, such as ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """Wait until the GPU has reached it."""


class Readout:
    """An asynchronous copy of a few numbers to the host, with their values at the time of its creation.

    A GPU copies them to pinned memory when it has done what it was given before. Neither the host nor the GPU waits,
    until the numbers are asked for; then the host waits for them, and not for work that was given to the GPU later.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies = {name: _copy(tensor.detach()) for name, tensor in tensors.items()}
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        self._events = [torch.cuda.current_stream(device).record_event() for device in devices]

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` would return without waiting."""
        return all(event.query() for event in self._events)

    def read(self) -> dict[str, list[float]]:
        """The numbers of each tensor."""
        for event in self._events:
            event.synchronize()
        return {name: copy.ravel().tolist() for name, copy in self._copies.items()}


def copies_on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies of tensors of any size in host memory, complete when this returns.

    Those of a GPU come in chunks through two pinned buffers: while the GPU fills one, the threads of torch empty the
    other. So little memory is pinned, whatever the sizes.

    Args:
        tensors: by name, on the CPU or on one GPU.
    """
    copies = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu") for name, tensor in tensors.items()}
    on_gpu = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_cuda}
    for name in tensors.keys() - on_gpu.keys():
        copies[name].copy_(tensors[name].detach())
    if on_gpu:
        device = next(iter(on_gpu.values())).device
        buffers = torch.empty(2, _CHUNK, dtype=torch.uint8, device="cpu", pin_memory=True)
        chunks = (chunk for name, tensor in on_gpu.items() for chunk in _chunks(tensor, copies[name], _CHUNK))
        copy_through(buffers, chunks, torch.cuda.current_stream(device).record_event)
    return copies


def copy_through(
    buffers: Shaped[Tensor, "2 bytes"], chunks: Iterable[tuple[Tensor, Tensor]], record: Callable[[], Event]
) -> None:
    """Copy chunks of bytes through two buffers, one of which is filled while the other is emptied.

    Args:
        buffers: in pinned memory.
        chunks: source and target of each, not longer than a buffer.
        record: returns the event that marks the end of the work that was given to the GPU so far.
    """
    filled: tuple[Event, Tensor, Tensor] | None = None
    for number, (source, target) in enumerate(chunks):
        buffer = buffers[number % 2, : len(source)]
        buffer.copy_(source, non_blocking=True)
        before, filled = filled, (record(), buffer, target)
        _empty(before)
    _empty(filled)


def _empty(filled: tuple[Event, Tensor, Tensor] | None) -> None:
    if filled is not None:
        event, buffer, target = filled
        event.synchronize()
        target.copy_(buffer)


def _chunks(source: Tensor, target: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The bytes of a tensor and of its contiguous copy, chunk by chunk."""
    whole, copy = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (source, target))
    return zip(torch.split(whole, size), torch.split(copy, size), strict=True)


def _copy(tensor: Tensor) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=tensor.is_cuda)
