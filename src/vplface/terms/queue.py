"""A queue of past samples: new ones take the places of the oldest."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vplface.bounds import require_whole


class Queue(nn.Module):
    """The last samples that were added, in no particular order.

    A backward pass sees what its forward pass saw: every ``add`` makes new tensors.

    Args:
        size: samples that fit.
        columns: numbers that are kept of each.
    """

    samples: Tensor
    classes: Tensor

    def __init__(self, size: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("samples", torch.zeros(size, columns))
        self.register_buffer("classes", torch.zeros(size, dtype=torch.int64))
        self.taken = 0

    def __len__(self) -> int:
        return min(self.taken, len(self.samples))

    @property
    def rows(self) -> Float[Tensor, "held columns"]:
        """The rows of the samples in the queue."""
        return self.samples[: len(self)]

    @property
    def labels(self) -> Int[Tensor, " held"]:
        """The class ids of the samples in the queue."""
        return self.classes[: len(self)]

    def add(self, rows: Float[Tensor, "batch columns"], labels: Int[Tensor, " batch"]) -> None:
        """Add samples; of more than fit, the last."""
        size, new = len(self.samples), len(rows)
        places = (self.taken + torch.arange(new, device=labels.device))[-size:] % size
        self.samples = self.samples.index_copy(0, places, rows[-size:].detach().to(self.samples))
        self.classes = self.classes.index_copy(0, places, labels[-size:])
        self.taken += new

    def get_extra_state(self) -> Tensor:
        """The number of samples that were ever added."""
        return torch.tensor(self.taken)

    def set_extra_state(self, state: Tensor) -> None:
        """The same, from a saved state."""
        self.taken = int(state)


def require_size(size: int) -> None:
    """Raise ValueError unless the size is at least 1."""
    require_whole(size=size)
    if size < 1:
        raise ValueError(f"size must be at least 1 sample, got {size}")
