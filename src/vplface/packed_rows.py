"""Rows of several tensors in one buffer of bytes, behind a header that gives their number and their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

HEADER_BYTES = 128
"""Bytes of a header: 16 numbers, which are the rows, a flag for a fault, and three for each column."""

MOST_COLUMNS = 4
"""Columns that a header has room for."""

_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64)
_ALIGNMENT = 16


class Kind(NamedTuple):
    """The kind of a column: a tensor with a number, or a vector of numbers, in each row.

    Attributes:
        dtype: float64, float32, bfloat16, float16 or int64.
        width: numbers in a row; 0 for a tensor of one dimension.
        has_gradient: whether it takes part in the backward pass.
    """

    dtype: torch.dtype
    width: int
    has_gradient: bool

    def __str__(self) -> str:
        shape = f"[rows, {self.width}]" if self.width else "[rows]"
        return f"{str(self.dtype).removeprefix('torch.')} {shape}{' with gradient' if self.has_gradient else ''}"

    def block_bytes(self, rows: int) -> int:
        """Bytes of a block of rows in a buffer."""
        return padded_bytes(rows * max(self.width, 1) * self.dtype.itemsize)


def padded_bytes(size: int) -> int:
    """Bytes up to the next block of a buffer."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def buffer_bytes(rows: int, kinds: Sequence[Kind]) -> int:
    """Bytes of a buffer that holds a header and columns."""
    return HEADER_BYTES + sum(kind.block_bytes(rows) for kind in kinds)


def kinds_of(columns: Sequence[Shaped[Tensor, "rows ..."]]) -> list[Kind]:
    """The kinds of some columns, whose gradients count where gradients are enabled."""
    wanted = torch.is_grad_enabled()
    return [Kind(each.dtype, each.shape[1] if each.ndim == 2 else 0, wanted and each.requires_grad) for each in columns]


def header_numbers(rows: int, fault: bool, kinds: Sequence[Kind]) -> list[int]:
    """The numbers of a header."""
    fields = [field for kind in kinds for field in (_TYPES.index(kind.dtype) + 1, kind.width, int(kind.has_gradient))]
    return [rows, int(fault), *fields, *[0] * (HEADER_BYTES // 8 - 2 - len(fields))]


def kinds_in(numbers: Sequence[int]) -> list[Kind]:
    """The kinds that a header names."""
    fields = [numbers[first : first + 3] for first in range(2, 2 + 3 * MOST_COLUMNS, 3)]
    return [Kind(_TYPES[code - 1], width, bool(gradient)) for code, width, gradient in fields if code]


def columns_in(
    buffer: UInt8[Tensor, "*ranks bytes"], rows: int, kinds: Sequence[Kind]
) -> list[Shaped[Tensor, "*ranks rows ..."]]:
    """The columns of a buffer, or of one for each rank, as views of it."""
    columns, first = [], HEADER_BYTES
    for kind in kinds:
        block = buffer[..., first : first + kind.block_bytes(rows)].view(kind.dtype)
        numbers = block[..., : rows * max(kind.width, 1)]
        columns.append(numbers.view(*buffer.shape[:-1], rows, kind.width) if kind.width else numbers)
        first += kind.block_bytes(rows)
    return columns
