"""Bounds of the unpacked size of a Parquet file, from its footer and page headers.

A page of a few bytes may unpack to gigabytes, a row may repeat a dictionary entry of megabytes, and a column may claim
billions of rows. The footer can be wrong, so the page headers are read too. Both are structs of Thrift's compact
protocol. The footer is parsed here because pyarrow crashes the process on some damaged ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vplface.data.formats.random_access import RandomAccess
from vplface.data.formats.thrift import I32, I64, CompactReader, Fields
from vplface.errors import DataError
from vplface.reading import MEBIBYTE

_HEADER_BYTES = 2**12
_MOST_HEADER_BYTES = 2**24

_BYTE_ARRAY = 6
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_ABOUT = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""Header field that describes each kind of page."""
_PAGE: Fields = {1: I32, 2: I32, 3: I32, 5: {1: I32, 2: I32}, 7: {1: I32}, 8: {1: I32, 4: I32}}
_COLUMN: Fields = {3: {1: I32, 7: I64, 9: I64, 11: I64}}
_FOOTER: Fields = {4: [{1: [_COLUMN], 3: I64}]}

_DICTIONARY_ENCODINGS = (2, 8)
_DELTA_BYTE_ARRAY = 7


class Chunk(NamedTuple):
    """The pages of one column in one row group."""

    start: int
    end: int
    rows: int
    texts: bool


class Bound(NamedTuple):
    """Bounds of an unpacked size, in bytes.

    Attributes:
        unpacked: size of the unpacked pages.
        written_out: the same plus the longest dictionary entry for each row that refers to a dictionary.
    """

    unpacked: int
    written_out: int


def allowance(size: int) -> int:
    """Allowed unpacked size of a file, in bytes: 64 MiB plus 64 times its size. Pictures are already compressed."""
    return 64 * MEBIBYTE + 64 * size


def chunks_of(file: RandomAccess, schema: Any) -> list[dict[str, Chunk]]:
    """The columns of each row group, by their paths in the schema.

    Args:
        file: the Parquet file.
        schema: pyarrow's schema of the file.

    Raises:
        DataError: if the footer is damaged, says that pages lie outside of the file, or claims more rows than a file of
            its size has.
        OSError: if the file cannot be read.
    """
    length = int.from_bytes(file.read(file.size - 8, 4), "little")
    try:
        groups = CompactReader(file.read(max(0, file.size - 8 - length), length)).struct(_FOOTER).get(4, [])
    except (IndexError, ValueError):
        raise _refused(file, "its footer cannot be read") from None
    names = [schema.column(number).path for number in range(len(schema))]
    lists = [schema.column(number).max_repetition_level > 0 for number in range(len(schema))]
    found = []
    for group in groups:
        columns, rows = group.get(1, []), group.get(3, -1)
        if len(columns) != len(names) or rows < 0:
            raise _refused(file, f"a row group has {len(columns)} of {len(names)} columns and {rows} rows")
        chunks = (_chunk(file, name, column.get(3, {}), rows) for name, column in zip(names, columns, strict=True))
        found.append({name: chunk for name, chunk, many in zip(names, chunks, lists, strict=True) if not many})
    rows = sum(group[3] for group in groups)
    if 16 * rows > allowance(file.size):
        raise DataError(f"{file.path}: claims {rows:,} rows, more than a file of {file.size:,} bytes has")
    return found


def _chunk(file: RandomAccess, name: str, about: dict[int, int], rows: int) -> Chunk:
    start, dictionary = about.get(9, -1), about.get(11, 0)
    start = dictionary if 0 < dictionary < start else start
    end = start + about.get(7, -1)
    if rows and not 4 <= start <= end <= file.size:
        raise _refused(file, f"the pages of the column {name!r} lie outside the file, by its footer")
    return Chunk(start, end, rows, about.get(1) == _BYTE_ARRAY)


def bound_of(file: RandomAccess, name: str, chunk: Chunk) -> Bound:
    """Walk the pages of a column in a row group.

    Raises:
        DataError: if they unpack to more than the :func:`allowance`, are not as many values as there are rows, or if
            their headers are damaged.
        OSError: if the file cannot be read.
    """
    most = allowance(file.size)
    at = chunk.start
    unpacked = dictionary = values = repeated = 0
    while at < chunk.end and values < chunk.rows:
        header, length = _header(file, at)
        stored, size, kind = header.get(3, -1), header.get(2, -1), header.get(1, -1)
        at += length + stored
        if stored < 0 or size < 0 or at > chunk.end:
            raise _refused(file, f"a page of the column {name!r} claims to have {stored} bytes")
        about = header.get(_ABOUT.get(kind, -1), {})
        count = about.get(1, -1 if about else 0)
        if count < 0:
            raise _refused(file, f"a page of the column {name!r} claims to have {count} values")
        unpacked += size
        if kind == _DICTIONARY:
            dictionary = size
        elif about:
            encoding = about.get(2 if kind == _DATA else 4)
            if encoding == _DELTA_BYTE_ARRAY and chunk.texts and count * size > most:
                raise _refused(file, f"the column {name!r}, in DELTA_BYTE_ARRAY, may unpack to {count * size:,} bytes")
            values += count
            repeated += count if encoding in _DICTIONARY_ENCODINGS else 0
        if unpacked > most or 16 * values > most:
            raise _refused(file, f"the column {name!r} unpacks to more than {most // MEBIBYTE:,} MiB")
    if values != chunk.rows:
        raise _refused(file, f"the column {name!r} has {values:,} values where the footer announces {chunk.rows:,}")
    return Bound(unpacked, unpacked + (repeated * dictionary if chunk.texts else 16 * values))


def _header(file: RandomAccess, at: int) -> tuple[dict[int, Any], int]:
    """The header of a page, and its length."""
    room = _HEADER_BYTES
    while True:
        data = file.read(at, room)
        reader = CompactReader(data)
        try:
            return reader.struct(_PAGE), reader.at
        except IndexError:
            if room == _MOST_HEADER_BYTES or len(data) < room:
                raise _refused(file, f"no page begins at byte {at}") from None
            room = _MOST_HEADER_BYTES
        except ValueError:
            raise _refused(file, f"no page begins at byte {at}") from None


def _refused(file: RandomAccess, what: str) -> DataError:
    return DataError(f"{file.path}: is damaged or forged: {what}; download it again")
