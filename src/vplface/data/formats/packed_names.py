"""Many names in one string of bytes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


class PackedNames:
    """Names laid end to end.

    Millions of small strings would be copied into every forked worker as soon as their reference counts are touched.
    """

    def __init__(self, packed: bytes, ends: Int[np.ndarray, " n"]) -> None:
        self._packed = packed
        self._ends = ends

    def __getitem__(self, index: int) -> bytes:
        return self._packed[self._ends[index - 1] if index else 0 : self._ends[index]]
