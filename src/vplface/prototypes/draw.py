"""Random numbers for classes, as a function of seed, step and class id."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from vplface import devices


class Draw(NamedTuple):
    """The random numbers of a step.

    Class j uses number j of a stream of a counter-based generator (Philox: Salmon et al., "Parallel random numbers:
    as easy as 1, 2, 3", SC 2011), so that ranks draw for their own classes what one process would draw for all.

    Attributes:
        classes: ids to draw for, contiguous.
        seed: of the draw, ≥ 0.
        step: step of the draw.
    """

    classes: range
    seed: int
    step: int

    def uniform(self, stream: int = 0) -> Float64[Tensor, " classes"]:
        """A number in [0, 1) for each class, on the CPU; streams are independent."""
        numbers = np.random.Philox(key=[self.seed, self.step], counter=[0, 0, 0, stream])
        block, skipped = divmod(self.classes.start, 4)  # Philox generates blocks of four numbers
        numbers.advance(block)
        return torch.from_numpy(np.random.Generator(numbers).random(skipped + len(self.classes))[skipped:])

    def below(
        self, limit: int | Tensor, stream: int = 0, device: torch.device | None = None
    ) -> Int64[Tensor, " classes"]:
        """A whole number in [0, limit) for each class; 0 where the limit is 0.

        Args:
            limit: one for all, or one for each class.
            stream: as in ``uniform``.
            device: where to put the numbers; None for the CPU.
        """
        device = torch.device("cpu") if device is None else device
        if isinstance(limit, Tensor) and devices.reading_waits(limit.device):
            return (devices.send(self.uniform(stream), limit.device) * limit).long()
        limit = limit.cpu() if isinstance(limit, Tensor) else limit
        return devices.send((self.uniform(stream) * limit).long(), device)
