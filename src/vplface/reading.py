"""Reading files that may come from anybody: regular files only, up to a stated size; JSON within bounded depth.

``Path.exists``, ``is_file`` and ``is_dir`` raise OSError for a name that is too long and for what lies in a folder that
may not be entered. The functions of this file raise DataError instead, which names the path.
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
"""The largest file of text that is read as a whole, in bytes: lists, recipes, JSON."""
PICTURE_LIMIT = 256 * MEBIBYTE
"""The largest encoded picture, in bytes."""

_DIGITS = 300
"""The most digits of an integer in JSON; a float can still hold it."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}


class UnreadableFileError(DataError):
    """A file that cannot be read; ``where`` is its path, ``reason`` what is wrong with it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where!r}: cannot be read: {self.reason}"


def kind_of(path: Path | str) -> Literal["file", "folder", "other"] | None:
    """What is at a path, links followed; None if nothing is there.

    Raises:
        DataError: naming the path, if that cannot be found out.
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
    """Whether a regular file is at a path; raises DataError if that cannot be found out."""
    return kind_of(path) == "file"


def is_folder(path: Path | str) -> bool:
    """Whether a folder is at a path; raises DataError if that cannot be found out."""
    return kind_of(path) == "folder"


def open_regular(path: Path | str) -> int:
    """A descriptor for reading a regular file; a device, a pipe or a socket is refused without waiting for it.

    Raises:
        UnreadableFileError: naming the path, if it cannot be opened or is not a regular file.
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
    """All bytes of a regular file.

    Args:
        path: the file; a device, a pipe or a socket is refused without waiting for it.
        limit: the largest size, in bytes.

    Raises:
        UnreadableFileError: naming the path, if it cannot be read, is not a regular file, or is larger.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= limit else b""  # read() takes memory for all that it is asked for
            if len(data) > size:
                data += file.read(limit - size)
    except OSError as error:
        raise unreadable(path, error) from error
    if max(size, len(data)) > limit:
        reason = f"larger than {limit // MEBIBYTE} MiB, the most that is read of a file of this kind"
        raise UnreadableFileError(str(path), reason)
    return data


def read_text(path: Path | str, encoding: str = "utf-8", errors: str = "strict", limit: int = TEXT_LIMIT) -> str:
    """All text of a regular file, with newlines as line ends.

    Raises:
        DataError: as :func:`read_bytes`, and if it is not text in this encoding.
    """
    return decoded(read_bytes(path, limit), path, encoding, errors)


def decoded(data: bytes, where: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text in bytes, with newlines as line ends; raises DataError, naming ``where``, if they are none."""
    try:
        return data.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not {encoding} text: byte {error.start} is {data[error.start]:#04x}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text, or its bytes in UTF-8.
        where: where it is from, for the error.

    Raises:
        DataError: it is not JSON, is nested too deeply, or has a number of too many digits.
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
    """The value of a file of JSON; raises DataError as :func:`read_bytes` and :func:`parse_json`."""
    return parse_json(read_bytes(path, limit), str(path))


def read_json_object(path: Path | str, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """As :func:`read_json`, for a file that holds an object; raises DataError if it holds another value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def unreadable(path: Path | str, error: Exception) -> UnreadableFileError:
    """The error for a path that cannot be read."""
    return UnreadableFileError(str(path), getattr(error, "strerror", None) or str(error))
