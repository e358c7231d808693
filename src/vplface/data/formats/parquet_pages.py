"""What the pages of a Parquet file unpack to, by their headers, before any of them is unpacked.

A page of a few bytes may say that it unpacks to two gigabytes, a row may repeat an entry of a dictionary that has
megabytes, and a column may claim billions of rows. The file's footer need not tell the truth about it, so the headers
of the pages are read here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from vplface.data.formats.parquet_footer import Column
from vplface.data.formats.random_access import RandomAccess
from vplface.data.formats.thrift import CompactReader, whole
from vplface.errors import DataError
from vplface.reading import MEBIBYTE

_HEADER_BYTES = 2**12
_MOST_HEADER_BYTES = 2**24

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_ABOUT = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""Kinds of pages, and the field that tells about each."""

_DICTIONARY_ENCODINGS = (2, 8)
_DELTA_BYTE_ARRAY = 7


def allowance(size: int) -> int:
    """How many bytes a file of a size may unpack to: 64 MiB, and 64 times its own. Pictures are compressed already."""
    return 64 * MEBIBYTE + 64 * size


def require_rows(file: RandomAccess, rows: int) -> None:
    """Raise DataError if a file claims more rows than one of its size has."""
    if rows < 0 or 16 * rows > allowance(file.size):
        raise DataError(f"{file.path}: claims {rows:,} rows, more than a file of {file.size:,} bytes has")


class Bound(NamedTuple):
    """How many bytes something unpacks to at most.

    Attributes:
        unpacked: what the pages hold.
        written_out: that, and the longest entry of a dictionary for each row that refers to it.
    """

    unpacked: int
    written_out: int


def require_bounded(
    file: RandomAccess, metadata: Any, group: int, chunks: Sequence[Column], columns: Collection[str]
) -> Bound:
    """Walk the pages of some columns of a row group.

    Args:
        file: the Parquet file.
        metadata: its footer, as pyarrow has it.
        group: number of the row group.
        chunks: the columns of the row group.
        columns: paths of those that are read.

    Raises:
        DataError: if the columns unpack to more than the :func:`allowance`, or if the headers of the pages are damaged.
        OSError: if the file cannot be read.
    """
    rows = metadata.row_group(group).num_rows
    bounds = []
    for number, column in enumerate(chunks):
        if rows and column.path in columns:
            if metadata.schema.column(number).max_repetition_level:
                raise _refused(file, f"the column {column.path!r} holds lists")
            bounds.append(_bound(file, column, rows))
    return Bound(sum(bound.unpacked for bound in bounds), sum(bound.written_out for bound in bounds))


def _bound(file: RandomAccess, column: Column, rows: int) -> Bound:
    name, most, at, end = column.path, allowance(file.size), column.first, column.end
    if not 4 <= at <= end <= file.size:
        raise _refused(file, f"the pages of the column {name!r} are said to lie outside of the file")
    unpacked = dictionary = values = repeated = 0
    while at < end and values < rows:
        header, length = _header(file, at)
        stored, size = whole(header, 3), whole(header, 2)
        at += length + stored
        if stored < 0 or size < 0 or at > end:
            raise _refused(file, f"a page of the column {name!r} is said to have {stored} bytes")
        unpacked += size
        kind = whole(header, 1)
        about = header.get(_ABOUT.get(kind, -1))
        count = whole(about, 1) if isinstance(about, dict) else 0
        if count < 0:
            raise _refused(file, f"a page of the column {name!r} is said to have {count} values")
        if kind == _DICTIONARY:
            dictionary = size
        elif isinstance(about, dict):
            encoding = whole(about, 2 if kind == _DATA else 4)
            if encoding == _DELTA_BYTE_ARRAY and column.texts and count * size > most:
                raise _refused(
                    file,
                    f"the column {name!r} is stored as DELTA_BYTE_ARRAY, which may unpack to {count * size:,} bytes",
                )
            values += count
            repeated += count if encoding in _DICTIONARY_ENCODINGS else 0
        if unpacked > most or 16 * values > most:
            raise _refused(file, f"the column {name!r} unpacks to more than {most // MEBIBYTE:,} MiB")
    if values != rows:
        raise _refused(file, f"the column {name!r} has {values:,} values where the footer announces {rows:,}")
    return Bound(unpacked, unpacked + (repeated * dictionary if column.texts else 16 * values))


def _header(file: RandomAccess, at: int) -> tuple[dict[int, Any], int]:
    """The header of a page, and its length."""
    room = _HEADER_BYTES
    while True:
        data = file.read(at, room)
        try:
            reader = CompactReader(data)
            return reader.struct(), reader.at
        except IndexError:
            if room == _MOST_HEADER_BYTES or len(data) < room:
                raise _refused(file, f"no page begins at byte {at}") from None
            room = _MOST_HEADER_BYTES
        except ValueError:
            raise _refused(file, f"no page begins at byte {at}") from None


def _refused(file: RandomAccess, what: str) -> DataError:
    return DataError(f"{file.path}: is damaged, or not honest: {what}; get it again")
