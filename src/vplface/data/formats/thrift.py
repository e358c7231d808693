"""Reader of Thrift's compact protocol, the encoding of Parquet's footers and page headers."""

from __future__ import annotations

from typing import Any, TypeAlias

Fields: TypeAlias = "dict[int, int | dict[int, Any] | list[Any]]"
"""Fields of a struct that are kept: its number, and the kind, the fields of a struct, or what a list is of.

A field of another kind than it should be is skipped, as Parquet's own readers do: it must not hide one of the right
kind.
"""

I32, I64 = 5, 6
_LIST, _STRUCT = 9, 12
_MOST_DEPTH = 32


class CompactReader:
    """Thrift's compact protocol; raises IndexError where the bytes end, and ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, wanted: Fields, depth: int = 0) -> dict[int, Any]:
        """The wanted fields of a struct that have the expected kind; the others are skipped."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        data, number = self.data, 0
        while True:
            head = data[self.at]
            self.at += 1
            if not head:
                return fields
            number = number + (head >> 4) if head >> 4 else self.signed()
            kind, want = head & 15, wanted.get(number)
            if isinstance(want, dict) and kind == _STRUCT:
                fields[number] = self.struct(want, depth + 1)
            elif isinstance(want, list) and kind == _LIST:
                fields[number] = self.structs(want[0], depth + 1)
            elif want == kind:
                fields[number] = self.signed()
            else:
                self.skip(kind, depth)

    def structs(self, of: Any, depth: int) -> list[Any]:
        """A list of structs; empty if it is of something else."""
        count, kind = self.list_head()
        if kind == _STRUCT:
            return [self.struct(of, depth) for _ in range(count)]
        for _ in range(count):
            self.skip(kind, depth, in_list=True)
        return []

    def list_head(self) -> tuple[int, int]:
        """Length of a list and the kind of its elements."""
        head = self.data[self.at]
        self.at += 1
        return (self.number() if head >> 4 == 15 else head >> 4), head & 15

    def skip(self, kind: int, depth: int, in_list: bool = False) -> None:
        """Step over a value."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        if kind in (4, 5, 6):
            while self.data[self.at] > 127:
                self.at += 1
            self.at += 1
        elif kind in (1, 2, 3):  # booleans, which are in the heads of fields, and bytes
            self.at += kind == 3 or in_list
        elif kind == 8:
            length = self.number()
            self.at += length
        elif kind == 7:
            self.at += 8
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        elif kind in (_LIST, 10):
            count, of = self.list_head()
            for _ in range(count):
                self.skip(of, depth + 1, in_list=True)
        elif kind == 11:
            count = self.number()
            kinds = self.data[self.at] if count else 0
            self.at += bool(count)
            for _ in range(count):
                self.skip(kinds >> 4, depth + 1, in_list=True)
                self.skip(kinds & 15, depth + 1, in_list=True)
        else:
            raise ValueError("unknown kind of value")
        if self.at > len(self.data):
            raise IndexError

    def number(self) -> int:
        """A number with seven bits per byte."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
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
