"""Batches on the device of a run; the next one is copied while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from vplface.data.batches import Batch

T = TypeVar("T")


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches for the steps on a device, in order.

    For a GPU a thread loads the next batch, copies it to pinned memory and lets a stream of its own copy it to the GPU,
    while the GPU computes the step before. For any other device these are the batches themselves.

    Args:
        batches: in host memory.
        device: of the run.
    """
    return _on_gpu(batches, device) if device.type == "cuda" else batches


def _on_gpu(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def send(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            return batch.pin_memory().to(device), copying.record_event()

    for batch, sent in one_ahead(lambda: send(next(batches))):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(sent)
        for tensor in (batch.pictures, batch.labels):
            tensor.record_stream(computing)  # its memory is free for later batches when the step is done with it
        yield batch


def one_ahead(make: Callable[[], T]) -> Iterator[T]:
    """Results of a function until it raises StopIteration; a thread computes each while the previous one is in use.

    An error of the function is raised in the place of its result.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(_next, make)
        while True:
            result = coming.result()
            if result is None:
                return
            coming = thread.submit(_next, make)
            yield result[0]


def _next(make: Callable[[], T]) -> tuple[T] | None:
    try:
        return (make(),)
    except StopIteration:  # which a future does not pass on
        return None
