"""Tensors of a safetensors file, read without a memory map, so that a file that shrinks is an error, not a crash."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from vplface.data.formats.random_access import RandomAccess
from vplface.errors import DataError
from vplface.reading import MEBIBYTE, parse_json

_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_LONGEST_HEADER = 100 * MEBIBYTE
_AT_ONCE = 16 * MEBIBYTE
_MOST_AXES = 16


class StoredTensors:
    """A safetensors file that reads single tensors, or some rows of them.

    Attributes:
        names: the names of the tensors.

    Args:
        path: the file.

    Raises:
        DataError: naming the file, if it cannot be read or is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._file = RandomAccess(path)
        try:
            length = int.from_bytes(self._file.read(0, 8), "little")
            if self._file.size < 8 or length > min(_LONGEST_HEADER, self._file.size - 8):
                raise ValueError("its header is cut short")
            header = parse_json(self._file.read(8, length), str(path))
            self._start = 8 + length
            self._entries = {str(key): self._entry(header[key]) for key in header if key != "__metadata__"}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a whole safetensors file ({error})") from error
        self.names = tuple(self._entries)

    def tensor(self, key: str) -> Tensor:
        """A whole tensor; raises DataError if the file has changed or cannot be read."""
        kind, shape, first, end = self._entries[key]
        return self._read(first, end).view(kind).reshape(shape)

    def rows(self, key: str, first: int, stop: int) -> Shaped[Tensor, "rows ..."]:
        """Some rows of a tensor; as many as there are between ``first`` and ``stop``. Raises DataError as above."""
        kind, shape, begin, end = self._entries[key]
        if not shape:
            raise DataError(f"{self._file.path}: {key!r} is a single number and has no rows")
        stop = min(stop, shape[0])
        first = min(first, stop)
        row = (end - begin) // shape[0] if shape[0] else 0
        return self._read(begin + first * row, begin + stop * row).view(kind).reshape(stop - first, *shape[1:])

    def _entry(self, described: Any) -> tuple[torch.dtype, list[int], int, int]:
        kind, shape, (first, end) = _TYPES[described["dtype"]], described["shape"], described["data_offsets"]
        if len(shape) > _MOST_AXES or not all(type(number) is int and number >= 0 for number in (*shape, first, end)):
            raise ValueError("a tensor has an impossible shape or offset")
        if math.prod(shape) * kind.itemsize != end - first or self._start + end > self._file.size:
            raise ValueError(f"a tensor of shape {shape} does not lie in bytes {first} to {end}")
        return kind, shape, first, end

    def _read(self, first: int, end: int) -> Tensor:
        data = torch.empty(end - first, dtype=torch.uint8)
        view = data.numpy()
        try:
            for at in range(0, len(view), _AT_ONCE):
                count = min(_AT_ONCE, len(view) - at)
                view[at : at + count] = np.frombuffer(self._file.read(self._start + first + at, count), np.uint8)
        except OSError as error:
            raise DataError(f"{self._file.path}: cannot be read: {error}") from error
        return data
