"""What the pages of a Parquet file unpack to, by their headers, before any of them is unpacked.

A page of a few bytes may say that it unpacks to two gigabytes, a row may repeat an entry of a dictionary that has
megabytes, and a column may claim billions of rows. The file's footer need not tell the truth about it, so the headers
of the pages are read here. They are structs of Thrift's compact protocol.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vplface.data.formats.random_access import RandomAccess
from vplface.errors import DataError
from vplface.reading import MEBIBYTE

_HEADER_BYTES = 2**12
_MOST_HEADER_BYTES = 2**24
_MOST_DEPTH = 8

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


def require_bounded(file: RandomAccess, metadata: Any, group: int, columns: set[str]) -> Bound:
    """Walk the pages of some columns of a row group.

    Args:
        file: the Parquet file.
        metadata: its footer, as pyarrow has it.
        group: number of the row group.
        columns: paths of the columns in the schema, "image.bytes".

    Raises:
        DataError: if the columns unpack to more than the :func:`allowance`, or if the headers of the pages are damaged.
        OSError: if the file cannot be read.
    """
    about = metadata.row_group(group)
    bounds = []
    for number in range(about.num_columns):
        column = about.column(number)
        if about.num_rows and column.path_in_schema in columns:
            if metadata.schema.column(number).max_repetition_level:
                raise _refused(file, f"the column {column.path_in_schema!r} holds lists")
            bounds.append(_bound(file, column, about.num_rows))
    return Bound(sum(bound.unpacked for bound in bounds), sum(bound.written_out for bound in bounds))


def _bound(file: RandomAccess, column: Any, rows: int) -> Bound:
    name, most = column.path_in_schema, allowance(file.size)
    at: int = column.data_page_offset
    if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    if not 4 <= at <= end <= file.size:
        raise _refused(file, f"the pages of the column {name!r} are said to lie outside of the file")
    unpacked = dictionary = values = repeated = 0
    while at < end and values < rows:
        header, length = _header(file, at)
        stored, size = header.get(3, -1), header.get(2, -1)
        at += length + stored
        if stored < 0 or size < 0 or at > end:
            raise _refused(file, f"a page of the column {name!r} is said to have {stored} bytes")
        unpacked += size
        kind = header.get(1, -1)
        about = header.get(_ABOUT.get(kind, -1))
        count = about.get(1, -1) if isinstance(about, dict) else 0
        if count < 0:
            raise _refused(file, f"a page of the column {name!r} is said to have {count} values")
        if kind == _DICTIONARY:
            dictionary = size
        elif isinstance(about, dict):
            encoding = about.get(2 if kind == _DATA else 4)
            if encoding == _DELTA_BYTE_ARRAY and column.physical_type == "BYTE_ARRAY" and count * size > most:
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
    texts = column.physical_type == "BYTE_ARRAY"
    return Bound(unpacked, unpacked + (repeated * dictionary if texts else 16 * values))


def _header(file: RandomAccess, at: int) -> tuple[dict[Any, Any], int]:
    """The header of a page, and its length."""
    room = _HEADER_BYTES
    while True:
        data = file.read(at, room)
        try:
            reader = _Reader(data)
            return reader.struct(), reader.at
        except IndexError:
            if room == _MOST_HEADER_BYTES or len(data) < room:
                raise _refused(file, f"no page begins at byte {at}") from None
            room = _MOST_HEADER_BYTES
        except ValueError:
            raise _refused(file, f"no page begins at byte {at}") from None


class _Reader:
    """Thrift's compact protocol, of which whole numbers and structs are kept; raises IndexError and ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[Any, Any]:
        """The fields of a struct by their numbers."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[Any, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.signed()
            fields[number] = self.value(head & 15, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        """The value of a field."""
        match kind:
            case 1 | 2:  # true and false
                return kind == 1
            case 3:
                return self.byte()
            case 4 | 5 | 6:
                return self.signed()
            case 7:
                return self.skip(8)
            case 8:
                return self.skip(self.number())
            case 12:
                return self.struct(depth + 1)
        raise ValueError("no field of a page's header")

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """A number of seven bits a byte."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("too long a number")

    def signed(self) -> int:
        """A number whose lowest bit is its sign."""
        value = self.number()
        return value >> 1 ^ -(value & 1)

    def skip(self, count: int) -> None:
        """Step over bytes, which must be there."""
        self.at += count
        if self.at > len(self.data):
            raise IndexError


def _refused(file: RandomAccess, what: str) -> DataError:
    return DataError(f"{file.path}: is damaged, or not honest: {what}; get it again")
