"""Vectorised readers of the .idx and .lst tables beside a .rec file, which have millions of lines.

.idx: ``KEY <tab> OFFSET`` for each record. .lst: ``KEY <tab> LABEL [<tab> LABEL ...] <tab> NAME`` for each picture.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from vplface.errors import DataError
from vplface.reading import open_regular

_WORD = 8
_PAD = 2 * _WORD
"""Padding in front of a text, so that sixteen bytes precede the end of any number."""

_BLOCK = 2**16
"""Numbers or bytes processed at once, so that intermediate results stay in the caches."""

# Eight characters at a time: a digit's upper half is 3, and still is when 6 is added.
_ZEROS, _SIXES, _UPPER, _THREES, _ONES = (
    np.uint64(byte * 0x0101010101010101) for byte in (ord("0"), 6, 0xF0, 0x33, 0xFF)
)

_TAB, _NEWLINE = 9, 10


LIMIT = 2**32
"""Largest file that is read, in bytes."""


def read_index(path: Path, limit: int = LIMIT) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The keys and offsets of an .idx file, in its order.

    Args:
        path: of the file.
        limit: the largest size, in bytes.

    Raises:
        DataError: naming the line, if one is not a key and an offset; or if there are none, or the file is larger.
    """
    text = _text(path, limit)
    tabs, newlines = _places(text, _TAB), _places(text, _NEWLINE)
    if len(tabs) == len(newlines):
        keys = _numbers(text, np.concatenate([[_PAD], newlines[:-1] + 1]), tabs)
        offsets = _numbers(text, tabs + 1, newlines)
        if keys.min() >= 0 and offsets.min() >= 0:
            return keys, offsets
    return _read_index_by_line(path)


def _read_index_by_line(path: Path) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    keys, offsets = [], []
    with os.fdopen(open_regular(path), "rb") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or not all(field.isdigit() and len(field) <= _PAD for field in fields):
                raise DataError(f"{path}, line {number}: expected a key, a tab and an offset, got {_shown(line)}")
            keys.append(int(fields[0]))
            offsets.append(int(fields[1]))
    if not keys:
        raise DataError(f"{path}: holds no records; without an .idx the .rec file itself is scanned")
    return np.array(keys, np.int64), np.array(offsets, np.int64)


def line_of(path: Path, key: int) -> int:
    """The number of the last line of an .idx that holds a key; 0 if none does."""
    with os.fdopen(open_regular(path), "rb") as lines:
        found = [number for number, line in enumerate(lines, 1) if (fields := line.split()) and int(fields[0]) == key]
    return found[-1] if found else 0


class NameList:
    """The names of a .lst file by key.

    Attributes:
        keys: of the lines, ascending.
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        """Find the lines.

        Raises:
            DataError: naming the line, if one lacks the columns of the first or a key.
        """
        self.path = path
        self._text = _text(path, LIMIT)
        ends, tabs = _places(self._text, _NEWLINE), _places(self._text, _TAB)
        starts = np.concatenate([[_PAD], ends[:-1] + 1])
        columns = int(np.searchsorted(tabs, ends[0]))
        even = columns >= 2 and len(tabs) == columns * len(ends)
        first, last = (tabs[0::columns], tabs[columns - 1 :: columns]) if even else (tabs, tabs)
        if not (even and bool((starts < first).all() and (last < ends).all() and (first[1:] > ends[:-1]).all())):
            self._complain(starts, ends, columns)
        self.keys = _numbers(self._text, starts, first)
        if self.keys.min() < 0:
            self._complain(starts, ends, columns)
        self._starts, self._ends = last + 1, ends
        if (np.diff(self.keys) <= 0).any():
            order = np.argsort(self.keys, kind="stable")
            self.keys, self._starts, self._ends = self.keys[order], self._starts[order], self._ends[order]

    @staticmethod
    def names_pictures(path: Path) -> bool:
        """Whether the first line is one of a .lst of MXNet's form; InsightFace has lists of other columns."""
        with os.fdopen(open_regular(path), "rb") as lines:
            fields = lines.readline(65536).split(b"\t")
        return len(fields) >= 3 and fields[0].isdigit() and all(_is_number(field) for field in fields[1:-1])

    def name(self, position: int) -> str:
        """The last column of the line with the position-th smallest key."""
        line = bytes(self._text.data[self._starts[position] : self._ends[position]])
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _complain(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"], columns: int) -> None:
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), 1):
            line = self._text[start:end].tobytes()
            fields = line.split(b"\t")
            if len(fields) != columns + 1 or not (fields[0].isdigit() and len(fields[0]) <= _PAD):
                raise DataError(
                    f"{self.path}, line {number}: expected a key, {columns - 1} labels and a name with tabs between, "
                    f"got {_shown(line)}"
                )
        raise AssertionError("unreachable: one of the lines is invalid")


def _text(path: Path, limit: int) -> UInt8[np.ndarray, " bytes"]:
    """The file behind padding, with a newline at its end."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise DataError(f"{path}: has {size:,} bytes, more than the limit of {limit:,}")
            text = np.zeros(_PAD + size + 1, np.uint8)
            read = file.readinto(text[_PAD : _PAD + size].data)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    text[_PAD + read] = _NEWLINE
    return text[: _PAD + read + (read == 0 or text[_PAD + read - 1] != _NEWLINE)]


def _places(text: UInt8[np.ndarray, " bytes"], byte: int) -> Int64[np.ndarray, " n"]:
    """Positions of a byte after the padding."""
    blocks = range(_PAD, len(text), _BLOCK)
    return np.concatenate([first + np.flatnonzero(text[first : first + _BLOCK] == byte) for first in blocks])


def _numbers(
    text: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Decimal numbers in text[start:end]; −1 for anything but one to sixteen digits."""
    numbers = np.empty(len(ends), np.int64)
    for first in range(0, len(ends), _BLOCK):
        end = ends[first : first + _BLOCK]
        digits = end - starts[first : first + _BLOCK]
        number = _eight_digits(text, end, np.clip(digits, 1, _WORD))
        long = np.flatnonzero((digits > _WORD) & (digits <= _PAD))
        if len(long):
            upper = _eight_digits(text, end[long] - _WORD, digits[long] - _WORD)
            number[long] = np.where((upper < 0) | (number[long] < 0), -1, 10**_WORD * upper + number[long])
        numbers[first : first + _BLOCK] = np.where((digits < 1) | (digits > _PAD), -1, number)
    return numbers


def _eight_digits(
    text: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " n"], digits: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """One to eight digits as the bytes of one integer, in which neighbours are joined: to tens, to hundreds, ..."""
    words = np.ndarray((len(text) - _WORD + 1,), "<u8", text.data, strides=(1,))[ends - _WORD].astype(np.uint64)
    before = (8 * (_WORD - digits)).astype(np.uint64)  # bits of the text before the number, to become zeros
    words = words >> before << before | _ZEROS & ~(_ONES << before)
    decimal = (words & _UPPER | (words + _SIXES & _UPPER) >> np.uint64(4)) == _THREES
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words = (words * np.uint64(10) + (words >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    words = (words * np.uint64(100) + (words >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    words = (words * np.uint64(10_000) + (words >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)
    return np.where(decimal, words.astype(np.int64), -1)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace")) + ("..." if len(line) > 60 else "")
