"""The tables beside a .rec file, millions of lines long, read without a Python object a line.

.idx: ``KEY <tab> OFFSET`` for each record. .lst: ``KEY <tab> LABEL [<tab> LABEL ...] <tab> NAME`` for each picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from vplface.errors import DataError

_WORD = 8
_PAD = 2 * _WORD
"""Bytes in front of a text, so that the sixteen before the end of any number are there."""

_BLOCK = 2**15
"""Numbers that are read at a time, so that what is between stays in the caches."""

_TAB, _NEWLINE = 9, 10


def read_index(path: Path) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The keys and offsets of an .idx file, in its order.

    Raises:
        DataError: naming the line, if one is not a key and an offset; or if there are none.
    """
    text = _text(path)
    ends = _PAD + np.flatnonzero(text[_PAD:] < ord("0"))
    digits = np.diff(ends, prepend=_PAD - 1) - 1
    regular = (
        len(ends) % 2 == 0
        and bool((text[ends[0::2]] == _TAB).all() and (text[ends[1::2]] == _NEWLINE).all())
        and 1 <= digits.min() <= digits.max() <= _PAD
        and text[_PAD:].max() <= ord("9")
    )
    if not regular:
        return _read_index_by_line(path)
    numbers = _numbers(text, ends, digits)
    return numbers[0::2].copy(), numbers[1::2].copy()


def _read_index_by_line(path: Path) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    keys, offsets = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or not all(field.isdigit() and len(field) <= _PAD for field in fields):
                raise DataError(f"{path}, line {number}: expected a key, a tab and an offset, got {_shown(line)}")
            keys.append(int(fields[0]))
            offsets.append(int(fields[1]))
    if not keys:
        raise DataError(f"{path}: holds no records; without an .idx the .rec file itself is read through")
    return np.array(keys, np.int64), np.array(offsets, np.int64)


class NameList:
    """The names of a .lst file by key.

    Attributes:
        keys: of the lines, ascending.
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        """Find the lines.

        Raises:
            DataError: naming the line, if one has not the columns of the first or begins with no key.
        """
        self.path = path
        self._text = _text(path)
        ends = _PAD + np.flatnonzero(self._text[_PAD:] == _NEWLINE)
        starts = np.concatenate([[_PAD], ends[:-1] + 1])
        tabs = _PAD + np.flatnonzero(self._text[_PAD:] == _TAB)
        columns = int(np.searchsorted(tabs, ends[0]))
        even = columns >= 2 and len(tabs) == columns * len(ends)
        first, last = (tabs[0::columns], tabs[columns - 1 :: columns]) if even else (tabs, tabs)
        if not (even and bool((starts < first).all() and (last < ends).all() and (first[1:] > ends[:-1]).all())):
            self._complain(starts, ends, columns)
        digits = first - starts
        if digits.max() > _PAD or not self._all_digits(starts, digits):
            self._complain(starts, ends, columns)
        self.keys = _numbers(self._text, first, digits)
        self._starts, self._ends = last + 1, ends
        if (np.diff(self.keys) <= 0).any():
            order = np.argsort(self.keys, kind="stable")
            self.keys, self._starts, self._ends = self.keys[order], self._starts[order], self._ends[order]

    @staticmethod
    def names_pictures(path: Path) -> bool:
        """Whether the first line is one of a .lst of MXNet's form; InsightFace has lists of other columns."""
        with path.open("rb") as lines:
            fields = lines.readline(65536).split(b"\t")
        return len(fields) >= 3 and fields[0].isdigit() and all(_is_number(field) for field in fields[1:-1])

    def name(self, position: int) -> str:
        """The last column of the line with the position-th smallest key."""
        line = self._text[self._starts[position] : self._ends[position]].tobytes()
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _all_digits(self, starts: Int64[np.ndarray, " n"], digits: Int64[np.ndarray, " n"]) -> bool:
        for place in range(int(digits.max())):
            byte = self._text[starts[digits > place] + place]
            if not ((byte >= ord("0")) & (byte <= ord("9"))).all():
                return False
        return True

    def _complain(self, starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"], columns: int) -> None:
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), 1):
            line = self._text[start:end].tobytes()
            fields = line.split(b"\t")
            if len(fields) != columns + 1 or not (fields[0].isdigit() and len(fields[0]) <= _PAD):
                raise DataError(
                    f"{self.path}, line {number}: expected a key, {columns - 1} labels and a name with tabs between, "
                    f"got {_shown(line)}"
                )
        raise AssertionError("unreachable: one of the lines is at fault")


def _text(path: Path) -> UInt8[np.ndarray, " bytes"]:
    """The file behind padding, with a newline at its end."""
    try:
        size = path.stat().st_size
        text = np.zeros(_PAD + size + 1, np.uint8)
        with path.open("rb") as file:
            read = file.readinto(text[_PAD : _PAD + size].data)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    text[_PAD + read] = _NEWLINE
    return text[: _PAD + read + (read == 0 or text[_PAD + read - 1] != _NEWLINE)]


def _numbers(
    text: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " n"], digits: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The decimal numbers of so many digits, one to sixteen, that end before these places."""
    numbers = np.empty(len(ends), np.int64)
    for first in range(0, len(ends), _BLOCK):
        block = slice(first, first + _BLOCK)
        end, count = ends[block], digits[block]
        numbers[block] = _eight_digits(text, end, np.minimum(count, _WORD))
        long = np.flatnonzero(count > _WORD)
        if len(long):
            numbers[first + long] += 10**_WORD * _eight_digits(text, end[long] - _WORD, count[long] - _WORD)
    return numbers


def _eight_digits(
    text: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " n"], digits: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Up to eight digits as the bytes of one integer, in which neighbours are joined: ones to tens, to hundreds, ..."""
    words = np.ndarray((len(text) - _WORD + 1,), "<u8", text.data, strides=(1,))[ends - _WORD].astype(np.uint64)
    before = (8 * (_WORD - digits)).astype(np.uint64)  # bits of what stands in front of the number
    words = (words >> before << before) & np.uint64(0x0F0F0F0F0F0F0F0F)
    words = (words * np.uint64(10) + (words >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    words = (words * np.uint64(100) + (words >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    words = (words * np.uint64(10_000) + (words >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)
    numbers: Int64[np.ndarray, " n"] = words.astype(np.int64)
    return numbers


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace")) + ("..." if len(line) > 60 else "")
