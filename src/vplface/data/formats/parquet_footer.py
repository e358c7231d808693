"""Where a Parquet file's columns lie, as its footer says.

pyarrow tells it too, but ends the process where a footer's statistics contradict themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vplface.data.formats.random_access import RandomAccess
from vplface.data.formats.thrift import CompactReader, whole
from vplface.errors import DataError

_BYTE_ARRAY = 6
_MAGIC = b"PAR1"


class Column(NamedTuple):
    """The pages of a column in a row group.

    Attributes:
        path: in the schema, "image.bytes".
        texts: whether its values are of any length.
        first: the byte at which its pages begin.
        end: the byte behind them.
    """

    path: str
    texts: bool
    first: int
    end: int


def columns_of(file: RandomAccess) -> list[list[Column]]:
    """The columns of each row group; raises DataError if the footer is damaged, and OSError."""
    tail = file.read(file.size - 8, 8)
    length = int.from_bytes(tail[:4], "little")
    try:
        if tail[4:] != _MAGIC or length > file.size - 8:
            raise ValueError("it is encrypted or cut short")
        groups = CompactReader(file.read(file.size - 8 - length, length)).struct().get(4)
        return [[_column(chunk[3]) for chunk in group[1]] for group in _structs(groups)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{file.path}: its footer is damaged ({error}); get it again") from error


def _structs(values: Any) -> list[dict[int, Any]]:
    if not isinstance(values, list):
        raise ValueError("it lists no row groups")
    return values


def _column(meta: dict[int, Any]) -> Column:
    first, dictionary = whole(meta, 9), whole(meta, 11)
    first = dictionary if 0 < dictionary < first else first
    path = b".".join(meta[3]).decode(errors="replace")
    return Column(path, whole(meta, 1) == _BYTE_ARRAY, first, first + whole(meta, 7))
