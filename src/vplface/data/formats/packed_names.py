"""Compact storage of many names in one bytes object."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


class PackedNames:
    """Concatenated names.

    Forked workers would copy millions of small strings as soon as their reference counts change.
    """

    def __init__(self, packed: bytes, ends: Int[np.ndarray, " n"]) -> None:
        self._packed = packed
        self._ends = ends

    def __getitem__(self, index: int) -> bytes:
        return self._packed[self._ends[index - 1] if index else 0 : self._ends[index]]
