"""Opcodes of a pickle, whose strings stay in the file.

The table of opcodes and their arguments is :mod:`pickletools`'. Its ``genops`` is not used: it reads every string into
memory, and before Python 3.13 it cannot decode the byte strings of protocol 0.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from vplface.data.formats.random_access import ReadAhead, Source
from vplface.reading import PICTURE_LIMIT

MOST_OPCODES = 10_000_000
"""Limit on the number of opcodes: a longer pickle is not a set of pictures and would only fill the memory."""

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_LENGTH_FORMATS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}


class RefusedPickleError(Exception):
    """A pickle that is damaged or asks for something that is not allowed."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A string in a file and the way its bytes are written there.

    Attributes:
        start: its first byte in the file.
        length: bytes in the file.
        coding: ``"raw"``: the bytes as they are. ``"utf-8"``: text, each character of which is a byte.
            ``"raw_unicode_escape"``: such text with escapes. ``"escape"``: as between the quotes of a Python string.
        is_text: whether it stands for text and not for bytes.
    """

    start: int
    length: int
    coding: str = "raw"
    is_text: bool = False

    def read(self, source: Source) -> bytes:
        """The bytes.

        Raises:
            ValueError: they are not written in ``coding``.
            OSError: the file cannot be read.
        """
        stored = source.read(self.start, self.length)
        if self.coding == "raw":
            return stored
        if self.coding == "escape":
            return bytes(codecs.escape_decode(stored)[0])
        return stored.decode(self.coding).encode("latin-1")


class OpcodeReader:
    """The opcodes of a pickle in a file, one after the other.

    Attributes:
        opcode_start: the byte of the opcode that was read last.
        position: the byte after its argument.
    """

    def __init__(self, data: ReadAhead) -> None:
        self._data = data
        self.position = 0
        self.opcode_start = 0

    def opcodes(self, allowed: Container[str]) -> Iterator[tuple[str, Any]]:
        """The name of each opcode with its argument, up to STOP: None, a number, a :class:`StoredBytes` or two names.

        Args:
            allowed: names of opcodes; the argument of any other is not read.

        Raises:
            RefusedPickleError: an opcode that is not allowed, a file that is cut short, or a damaged argument.
        """
        for _ in range(MOST_OPCODES):
            self.opcode_start = self.position
            code = self._take(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise RefusedPickleError(f"{code!r} is not an opcode")
            if opcode.name == "STOP":
                return
            if opcode.name not in allowed:
                raise RefusedPickleError(f"the opcode {opcode.name} is not allowed")
            yield opcode.name, None if opcode.arg is None else self._argument(opcode.arg)
        raise RefusedPickleError(f"it has more than {MOST_OPCODES:,} opcodes")

    def _argument(self, kind: pickletools.ArgumentDescriptor) -> int | StoredBytes | tuple[str, str]:
        if kind.n >= 0:
            return int(kind.reader(io.BytesIO(self._take(kind.n))))
        if kind.name == "long1":
            return self._long()
        if kind.n in _LENGTH_FORMATS:
            return self._string(_LENGTH_FORMATS[kind.n], is_text=kind.name.startswith("unicode"))
        match kind.name:
            case "stringnl":
                return self._quoted()
            case "unicodestringnl":
                return self._escaped_text()
            case "stringnl_noescape_pair":
                return self._line(256).decode("utf-8", "replace"), self._line(256).decode("utf-8", "replace")
        return self._decimal()

    def _take(self, count: int) -> bytes:
        self._skip(count)
        return self._data.read(self.position - count, count)

    def _skip(self, count: int) -> None:
        if count > self._data.size - self.position:
            missing = count - self._data.size + self.position
            raise RefusedPickleError(f"the file ends {missing:,} bytes too early: it is cut short")
        self.position += count

    def _line(self, longest: int) -> bytes:
        """The bytes up to the next line break."""
        end = self._data.find(b"\n", self.position, self.position + longest + 1)
        if end < 0:
            raise RefusedPickleError(f"there is no line break within {longest:,} bytes")
        start, self.position = self.position, end + 1
        return self._data.read(start, end - start)

    def _string(self, length_format: str, is_text: bool) -> StoredBytes:
        """A string after its length."""
        (length,) = struct.unpack(length_format, self._take(struct.calcsize(length_format)))
        if length < 0:
            raise RefusedPickleError("a string of negative length")
        start = self.position
        self._skip(length)
        return StoredBytes(start, length, "utf-8" if is_text else "raw", is_text)

    def _quoted(self) -> StoredBytes:
        """A string in quotes, up to the end of its line."""
        start = self.position
        end = self._data.find(b"\n", start)
        if end - start > PICTURE_LIMIT:
            raise RefusedPickleError(f"a string of {end - start:,} bytes")
        line = self._data.read(start, max(end - start, 0)).rstrip()
        if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
            raise RefusedPickleError("a string is not in quotes")
        self.position = end + 1
        return StoredBytes(start + 1, len(line) - 2, "escape")

    def _escaped_text(self) -> StoredBytes:
        """A text up to the end of its line."""
        start = self.position
        end = self._data.find(b"\n", start)
        if end < 0:
            raise RefusedPickleError("a text has no end")
        self.position = end + 1
        return StoredBytes(start, end - start, "raw_unicode_escape", is_text=True)

    def _decimal(self) -> int:
        """A number in digits; 00 and 01 are booleans."""
        line = self._line(20).strip()
        if not re.fullmatch(rb"-?[0-9]+L?", line):
            raise RefusedPickleError("a number is not written in digits")
        return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))

    def _long(self) -> int:
        """A number of a few bytes after their count."""
        (size,) = self._take(1)
        if size > 8:
            raise RefusedPickleError(f"a number of {size} bytes; numbers of at most 8 are expected")
        return int.from_bytes(self._take(size), "little", signed=True)
