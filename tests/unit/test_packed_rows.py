from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vplface.packed_rows import (
    HEADER_BYTES,
    MOST_COLUMNS,
    Kind,
    buffer_bytes,
    columns_in,
    header_numbers,
    kinds_in,
    kinds_of,
)

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64]
KINDS = st.builds(Kind, st.sampled_from(TYPES), st.integers(0, 7), st.booleans())


@given(st.integers(0, 2**40), st.booleans(), st.lists(KINDS, max_size=MOST_COLUMNS))
def test_header_numbers_fill_a_header_and_kinds_in_reads_them(rows, fault, kinds):
    numbers = header_numbers(rows, fault, kinds)
    assert 8 * len(numbers) == HEADER_BYTES
    assert numbers[:2] == [rows, fault]
    assert kinds_in(numbers) == kinds


@given(st.integers(0, 5), st.lists(KINDS, max_size=MOST_COLUMNS))
def test_columns_in_gives_blocks_that_do_not_overlap(rows, kinds):
    size = buffer_bytes(rows, kinds)
    buffer = torch.zeros(size, dtype=torch.uint8)
    given = [torch.randn(rows, max(kind.width, 1)).mul(9).to(kind.dtype) for kind in kinds]
    given = [column if kind.width else column[:, 0] for column, kind in zip(given, kinds, strict=True)]
    for block, column in zip(columns_in(buffer, rows, kinds), given, strict=True):
        block.copy_(column)
    assert not buffer[:HEADER_BYTES].any()
    for block, column in zip(columns_in(buffer, rows, kinds), given, strict=True):
        assert block.dtype == column.dtype
        assert torch.equal(block, column)


def test_columns_in_a_matrix_of_buffers_are_those_of_each_of_them():
    kinds = [Kind(torch.bfloat16, 3, True), Kind(torch.int64, 0, False)]
    buffers = torch.randint(256, (2, buffer_bytes(5, kinds)), dtype=torch.uint8)
    together = columns_in(buffers, 5, kinds)
    for rank, buffer in enumerate(buffers):
        for column, every in zip(columns_in(buffer, 5, kinds), together, strict=True):
            assert every.data_ptr() + rank * buffers.stride(0) == column.data_ptr()
            assert every[rank].shape == column.shape


def test_columns_in_a_matrix_of_buffers_are_aligned():
    kinds = [Kind(torch.bfloat16, 3, True), Kind(torch.int64, 0, False), Kind(torch.float64, 1, False)]
    size = buffer_bytes(5, kinds)
    for buffer in torch.zeros(3, size, dtype=torch.uint8):
        assert [column.storage_offset() * column.itemsize % 16 for column in columns_in(buffer, 5, kinds)] == [0] * 3


def test_kinds_of_counts_gradients_only_where_they_are_enabled():
    column, label = torch.ones(2, 3, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    assert [str(kind) for kind in kinds_of([column, label])] == ["float32 [rows, 3] with gradient", "int64 [rows]"]
    with torch.no_grad():
        assert not kinds_of([column])[0].has_gradient
