"""Faults of a batch that a kernel finds, raised by the host in the next step, so that no step waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vplface.guards import LARGEST_LOSS_WEIGHT, scaled_loss
from vplface.prototypes.batch import DegenerateEmbeddingError
from vplface.ranks import OtherRankError
from vplface.softmax.fused import kernels
from vplface.softmax.fused.samples import Samples

_NO_FAULT, _SCALED, _SAMPLE = kernels.NO_FAULT.value, kernels.SCALED.value, kernels.SAMPLE.value
_DEGENERATE = (
    (kernels.NOT_FINITE.value, "embeddings", "NaN or infinite"),
    (kernels.ZERO.value, "embeddings", "zero"),
    (kernels.MEMORY_NOT_FINITE.value, "memory_embeddings", "NaN or infinite"),
    (kernels.MEMORY_ZERO.value, "memory_embeddings", "zero"),
)


class Faults:
    """The first fault that kernels have found, kept on the device until the host has seen it.

    While there is one, no kernel writes state, so nothing that follows a faulty batch changes it either. The host looks
    at the copy that the last step has sent to pinned memory. It waits for that copy, which has arrived unless the host
    is a whole step ahead of the device.

    Attributes:
        is_refusal: whether the fault found last is that a rank has refused its batch.
        is_of_loss: whether it is of the loss, which other ranks do not see. They all see the faults of all batches.
    """

    def __init__(self) -> None:
        self._word: Tensor | None = None
        self._host: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None
        self._step: int | None = None  # whose fault has not been looked at
        self._sent = False
        self._room: int | None = None  # rows of a rank
        self._rank = 0
        self._refusal: Exception | None = None
        self.is_refusal = self.is_of_loss = False

    def begin(self, device: torch.device, step: int, samples: Samples, refusal: Exception | None = None) -> Tensor:
        """The number, on the device, into which the kernels of a step write its first fault.

        Args:
            device: of W.
            step: its number.
            samples: of the step.
            refusal: why this rank refuses its own.
        """
        if self._word is None or self._word.device != device:
            self._word = torch.full((1,), _NO_FAULT, dtype=torch.int32, device=device)
            on_meta = device.type == "meta"
            self._host = torch.empty(
                1, dtype=torch.int32, device="meta" if on_meta else "cpu", pin_memory=device.type == "cuda"
            )
            self._arrived = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._step, self._sent, self._refusal = step, False, refusal
        self._room, self._rank = (None, 0) if samples.ranks is None else (samples.room, samples.ranks.rank)
        return self._word

    def send(self) -> None:
        """Send the fault of the step to the host."""
        if self._word is None or self._host is None:
            return
        self._host.copy_(self._word, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._sent = True

    def fault(self, num_classes: int) -> tuple[int, Exception] | None:
        """Number and fault of the last step, None without a fault; state may be written again.

        Args:
            num_classes: N, for the message.
        """
        if self._step is None or self._word is None or self._host is None:
            return None
        if not self._sent:
            self.send()
        step, self._step = self._step, None
        if self._host.is_meta:
            return None
        if self._arrived is not None:
            self._arrived.synchronize()
        word = int(self._host[0])
        if word == _NO_FAULT:
            return None
        self._word.fill_(_NO_FAULT)
        return step, self._error(word, num_classes)

    def _error(self, word: int, num_classes: int) -> Exception:
        self.is_of_loss = word == _SCALED
        if self.is_of_loss:
            return RuntimeError(scaled_loss(f"{LARGEST_LOSS_WEIGHT:g} or more"))
        sample, wrong = divmod(word, _SAMPLE)
        self.is_refusal = bool(wrong & kernels.REFUSED.value)
        if self._refusal is not None:
            return self._refusal
        rank, sample = (self._rank, sample) if self._room is None else divmod(sample, self._room)
        if rank != self._rank:
            return OtherRankError(f"the batch of rank {rank} is invalid; see the error of that rank")
        return _error_of_sample(sample, wrong, num_classes)

    def __reduce__(self) -> tuple[Any, ...]:
        return Faults, ()


def _error_of_sample(sample: int, wrong: int, num_classes: int) -> Exception:
    if wrong & kernels.OUTSIDE.value:
        return ValueError(f"the label of sample {sample} is not a class id in [0, {num_classes})")
    name, fault = next((name, fault) for bit, name, fault in _DEGENERATE if wrong & bit)
    return DegenerateEmbeddingError(
        f"{name} of sample {sample} is {fault}; the backbone has diverged or died: lower the learning rate, warm up, or"
        " look at its input"
    )
