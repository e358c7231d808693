"""A control: the memory of another class."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from vplface.prototypes.draw import Draw
from vplface.prototypes.variational import LastFeature


@dataclass(frozen=True)
class ShuffledMemory(LastFeature):
    """The last feature of a wrong class: into class j goes that of π(j), where π is fixed and π(j) ≠ j.

    A control. All statistics of the injection are those of ``LastFeature``, but it belongs to the wrong class. A
    remaining gain comes from noise, not from variation within the class.

    π(j) = (j + k) mod N, with k in [1, N) from the seed. A feature is written to where it will be injected, so nothing
    has to be exchanged between ranks, and the rows of ``head.memory`` are those of π(j). Bytes and time are those
    of the last feature.
    """

    def home(self, classes: Int[Tensor, " seen"], num_classes: int, seed: int) -> Int[Tensor, " seen"]:
        """The j with π(j) = y."""
        shift = 1 + int(Draw(range(1), seed, 0).below(num_classes - 1, stream=1))
        return (classes - shift) % num_classes
