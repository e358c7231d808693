"""Readers of untrusted files: regular files of bounded size, and JSON of bounded depth.

``Path.exists``, ``is_file`` and ``is_dir`` raise OSError for names that are too long and in folders without access. The
functions of this file raise DataError with the path instead.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, Literal

from vplface.errors import DataError

MEBIBYTE = 2**20
TEXT_LIMIT = 64 * MEBIBYTE
"""Largest text file that is read, in bytes: lists, recipes, JSON."""
PICTURE_LIMIT = 256 * MEBIBYTE
"""Largest encoded picture, in bytes."""

_DIGITS = 300
"""Largest number of digits of an integer in JSON, still in the range of a float."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}


class UnreadableFileError(DataError):
    """Raised for a file that cannot be read; ``where`` is its path, ``reason`` the explanation."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where!r}: cannot be read: {self.reason}"


def kind_of(path: Path | str) -> Literal["file", "folder", "other"] | None:
    """Kind of the entry at a path, following links; None if it does not exist.

    Raises:
        DataError: the path cannot be examined.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat is the same
    except ValueError:  # a null character
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise unreadable(path, error) from error
    return _KINDS.get(stat.S_IFMT(mode), "other")  # type: ignore[return-value]


def is_file(path: Path | str) -> bool:
    """Whether a path is a regular file; raises DataError if it cannot be examined."""
    return kind_of(path) == "file"


def is_folder(path: Path | str) -> bool:
    """Whether a path is a folder; raises DataError if it cannot be examined."""
    return kind_of(path) == "folder"


def open_regular(path: Path | str) -> int:
    """Open a regular file for reading; returns its descriptor. Others are rejected without blocking.

    Raises:
        UnreadableFileError: the file cannot be opened or is not a regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise unreadable(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    raise UnreadableFileError(str(path), "not a regular file; devices, pipes and sockets are not read")


def read_bytes(path: Path | str, limit: int = PICTURE_LIMIT) -> bytes:
    """Read a regular file.

    Args:
        path: path of the file; devices, pipes and sockets are rejected without blocking.
        limit: largest accepted size, in bytes.

    Raises:
        UnreadableFileError: the file cannot be read, is not a regular file, or is too large.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= limit else b""  # read() allocates all requested memory
            if len(data) > size:
                data += file.read(limit - size)
    except OSError as error:
        raise unreadable(path, error) from error
    if max(size, len(data)) > limit:
        reason = f"larger than {limit // MEBIBYTE} MiB, the limit for a file of this kind"
        raise UnreadableFileError(str(path), reason)
    return data


def read_text(path: Path | str, encoding: str = "utf-8", errors: str = "strict", limit: int = TEXT_LIMIT) -> str:
    """Read a text file, with newlines as line ends.

    Raises:
        DataError: as :func:`read_bytes`, or the file is not text in this encoding.
    """
    return decoded(read_bytes(path, limit), path, encoding, errors)


def decoded(data: bytes, where: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Decode text, with newlines as line ends; raises DataError, naming ``where``, if it is not in this encoding."""
    try:
        return data.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not {encoding} text: byte {error.start} is {data[error.start]:#04x}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse a JSON text.

    Args:
        text: the text, or its bytes in UTF-8.
        where: its origin, for errors.

    Raises:
        DataError: the text is not JSON, is nested too deeply, or has a number with too many digits.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise DataError(f"{where}: not valid: JSON that is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


def read_json(path: Path | str, limit: int = TEXT_LIMIT) -> Any:
    """Read and parse a JSON file; raises DataError as :func:`read_bytes` and :func:`parse_json`."""
    return parse_json(read_bytes(path, limit), str(path))


def read_json_object(path: Path | str, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """As :func:`read_json`, for a file that holds an object; raises DataError if it holds another value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def unreadable(path: Path | str, error: Exception) -> UnreadableFileError:
    """Create the error for a path that cannot be read."""
    return UnreadableFileError(str(path), getattr(error, "strerror", None) or str(error))
