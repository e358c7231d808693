"""Faults of a batch that the device finds and the host raises in the next step, so that no step waits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vplface import devices
from vplface.guards import LARGEST_LOSS_WEIGHT, scaled_loss
from vplface.prototypes.batch import DegenerateEmbeddingError
from vplface.ranks import OtherRankError

NO_FAULT = 2**31 - 1
"""The word of a batch without a fault. Otherwise it is the smallest SAMPLE·i + (what is wrong with sample i)."""
SCALED = -1
"""The word of a loss that a GradScaler has scaled."""
SAMPLE = 64
OUTSIDE, NOT_FINITE, ZERO, MEMORY_NOT_FINITE, MEMORY_ZERO, REFUSED = 1, 2, 4, 8, 16, 32
"""What is wrong with a sample. The first one of a rank that refuses its batch is REFUSED."""
_DEGENERATE = (
    (NOT_FINITE, "embeddings", "NaN or infinite"),
    (ZERO, "embeddings", "zero"),
    (MEMORY_NOT_FINITE, "memory_embeddings", "NaN or infinite"),
    (MEMORY_ZERO, "memory_embeddings", "zero"),
)


class Faults:
    """The first fault of a step, kept on the device until the host has seen it.

    The host looks at a copy that the step has sent to pinned memory. It waits for that copy, which has arrived unless
    the host is a whole step ahead of the device.

    Attributes:
        is_refusal: whether the fault found last is that a rank has refused its batch.
        is_of_loss: whether it is of the loss, which other ranks do not see. They all see the faults of all batches.
    """

    def __init__(self) -> None:
        self._word: Tensor | None = None
        self._sent: devices.SentNumber | None = None
        self._step: int | None = None  # whose fault has not been looked at
        self._seen: tuple[int, Exception] | None = None
        self._place: tuple[int, int] | None = None
        self._refusal: Exception | None = None
        self.is_refusal = self.is_of_loss = False

    @property
    def unseen(self) -> bool:
        """Whether the host has not looked at the last step."""
        return self._step is not None

    def begin(
        self,
        device: torch.device,
        step: int,
        place: tuple[int, int] | None = None,
        refusal: Exception | None = None,
    ) -> Int[Tensor, 1]:
        """The word, on the device, into which a step writes its first fault.

        Args:
            device: of W.
            step: its number.
            place: this rank, and the rows that each rank has in the batch; None for one process.
            refusal: why this rank refuses its own samples.
        """
        if self._word is None or self._word.device != device:
            self._word = torch.full((1,), NO_FAULT, dtype=torch.int32, device=device)
        self._step, self._sent, self._place, self._refusal = step, None, place, refusal
        return self._word

    def note(self, fault: Int[Tensor, ""]) -> None:
        """Write the first fault of a batch into the word, unless there is an earlier one."""
        assert self._word is not None
        self._word.copy_(torch.minimum(self._word, fault.to(torch.int32)))

    def note_scale(self, gradient: Float[Tensor, ""]) -> Float[Tensor, 1]:
        """Write into the word that a GradScaler has scaled the loss, if the gradient of the loss shows it.

        Returns:
            1 if there is a fault, else 0.
        """
        self.note(torch.where(gradient.detach().abs() >= LARGEST_LOSS_WEIGHT, SCALED, NO_FAULT))
        return self._found.float()

    def nan_if_any(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss; NaN, with a gradient of 0, if a fault has been found."""
        return torch.where(self._found.squeeze(0), torch.nan, loss)

    @property
    def _found(self) -> Bool[Tensor, 1]:
        """Whether a fault has been found, on the device."""
        assert self._word is not None
        return self._word != NO_FAULT

    def send(self) -> None:
        """Send the fault of the step to the host."""
        if self._word is not None:
            self._sent = devices.SentNumber(self._word)

    def look(self, num_classes: int) -> tuple[int, Exception] | None:
        """Number and fault of the last step, None without a fault; the word is free for another step.

        Args:
            num_classes: N, for the message.
        """
        if self._step is None or self._word is None:
            return self._seen
        sent = self._sent or devices.SentNumber(self._word)
        step, self._step = self._step, None
        word = sent.read()
        if word is not None and word != NO_FAULT:
            self._word.fill_(NO_FAULT)
            self._seen = step, self._error(word, num_classes)
        return self._seen

    def take(self, num_classes: int) -> tuple[int, Exception] | None:
        """The same, which is then forgotten."""
        found, self._seen = self.look(num_classes), None
        return found

    def _error(self, word: int, num_classes: int) -> Exception:
        self.is_of_loss = word == SCALED
        if self.is_of_loss:
            return RuntimeError(scaled_loss(f"{LARGEST_LOSS_WEIGHT:g} or more"))
        sample, wrong = divmod(word, SAMPLE)
        self.is_refusal = bool(wrong & REFUSED)
        if self._refusal is not None:
            return self._refusal
        own, room = (0, None) if self._place is None else self._place
        rank, sample = (own, sample) if room is None else divmod(sample, room)
        if rank != own:
            return OtherRankError(f"the batch of rank {rank} is invalid; see the error of that rank")
        return _error_of_sample(sample, wrong, num_classes)

    def __reduce__(self) -> tuple[Any, ...]:
        return Faults, ()


class SoundBatch(NamedTuple):
    """A batch with harmless numbers in the place of those at fault.

    Attributes:
        fault: the first fault, as ``NO_FAULT`` describes it.
    """

    embeddings: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    memory_embeddings: Float[Tensor, "batch dim"] | None
    fault: Int[Tensor, ""]


def without_faults(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory_embeddings: Float[Tensor, "batch dim"] | None,
    num_classes: int,
) -> SoundBatch:
    """Find the first fault of a batch, on its device.

    Args:
        embeddings: of any length.
        labels: class ids.
        memory_embeddings: what is remembered instead of ``embeddings``, if anything.
        num_classes: N.
    """
    outside = (labels < 0) | (labels >= num_classes)
    wrong = torch.where(outside, OUTSIDE, 0)

    def sound(rows: Tensor, not_finite: int, zero: int) -> Tensor:
        nonlocal wrong
        length = rows.detach().norm(dim=1)
        finite, empty = length.isfinite(), length == 0
        wrong = wrong + torch.where(finite, 0, not_finite) + torch.where(empty, zero, 0)
        return torch.where((finite & ~empty).unsqueeze(1), rows, 1.0)

    embeddings = sound(embeddings, NOT_FINITE, ZERO)
    if memory_embeddings is not None:
        memory_embeddings = sound(memory_embeddings, MEMORY_NOT_FINITE, MEMORY_ZERO)
    word = SAMPLE * torch.arange(len(labels), device=labels.device) + wrong
    fault = torch.where(wrong > 0, word, NO_FAULT).amin()
    return SoundBatch(embeddings, torch.where(outside, 0, labels), memory_embeddings, fault)


def _error_of_sample(sample: int, wrong: int, num_classes: int) -> Exception:
    if wrong & OUTSIDE:
        return ValueError(f"the label of sample {sample} is not a class id in [0, {num_classes})")
    name, fault = next((name, fault) for bit, name, fault in _DEGENERATE if wrong & bit)
    return DegenerateEmbeddingError(
        f"{name} of sample {sample} is {fault}; the backbone has diverged or died: lower the learning rate, warm up, or"
        " look at its input"
    )
