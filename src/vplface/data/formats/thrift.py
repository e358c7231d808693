"""Thrift's compact protocol, in which Parquet's footers and headers of pages are written."""

from __future__ import annotations

from typing import Any

_MOST_DEPTH = 12


class CompactReader:
    """Reads structs as dicts from field numbers to values; names of fields are not part of the protocol.

    Whole numbers, truth values, bytes, lists (also for sets) and structs are kept. Doubles and maps are stepped over.

    Raises:
        IndexError: in every method, if the data end within a value.
        ValueError: in every method, if the data are not of the protocol, or are nested too deeply.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct by their numbers."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:  # in a list; in a struct the kind is the value
                return self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._signed()
            case 7:
                self._bytes(8)
                return None
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                return self._list(depth + 1)
            case 11:
                return self._skip_map(depth + 1)
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"no type has the number {kind}")

    def _list(self, depth: int) -> list[Any]:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._unsigned()
        if count > len(self.data) - self.at:  # an entry takes a byte at least
            raise IndexError
        return [self._value(head & 15, depth) for _ in range(count)]

    def _skip_map(self, depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        count = self._unsigned()
        if count > len(self.data) - self.at:
            raise IndexError
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth)
            self._value(kinds & 15, depth)

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        """A number of seven bits a byte."""
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("too long a number")

    def _signed(self) -> int:
        """A number whose lowest bit is its sign."""
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def _bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise IndexError
        return self.data[self.at - count : self.at]


def whole(fields: dict[int, Any], number: int) -> int:
    """A field that holds a whole number of at least 0; -1 if it is missing or holds anything else."""
    value = fields.get(number)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else -1
