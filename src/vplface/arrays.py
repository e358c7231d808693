"""Files of numpy arrays that may come from anybody: no pickles, and memory in proportion to the size of the file."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from vplface.errors import DataError
from vplface.reading import MEBIBYTE, is_file, kind_of, unreadable

_FREE = 256 * MEBIBYTE
_GROWTH = 20
"""A compressed file may take its own size this many times over, and 256 MiB, in memory."""

_DAMAGED = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, OverflowError, NotImplementedError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_array(path: Path | str, *, mapped: bool = False) -> np.ndarray[Any, Any]:
    """The array of an .npy file.

    Args:
        path: the file.
        mapped: whether to read rows only when they are needed.

    Raises:
        DataError: naming the path: it cannot be read, is not a regular file, holds objects, or claims a shape that is
            larger than the file.
    """
    _require_file(path)
    try:
        with Path(path).open("rb") as file:
            _require_size(path, file, os.fstat(file.fileno()).st_size)
        found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return found


def read_arrays(path: Path | str, wanted: Collection[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by their names.

    Args:
        path: the file.
        wanted: the names that are read; None for all.

    Raises:
        DataError: as :func:`read_array`; the file grows beyond bounds when it is read; or it lacks a name that is
            wanted.
    """
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            names = list(members) if wanted is None else list(wanted)
            if missing := [name for name in names if name not in members]:
                raise DataError(f"{path}: lacks the array {missing[0]!r}; it holds {', '.join(members) or 'nothing'}")
            chosen = {name: members[name] for name in names}
            _require_growth(path, list(chosen.values()))
            return {name: _member(path, archive, entry) for name, entry in chosen.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise _damaged(path, error) from error


def array_names(path: Path | str) -> list[str]:
    """The names of the arrays of an .npz file; raises DataError as :func:`read_arrays`."""
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except OSError as error:
        raise unreadable(path, error) from error
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _require_file(path: Path | str) -> None:
    if not is_file(path):
        reason = "no such file" if kind_of(path) is None else "it is not a regular file"
        raise DataError(f"{path}: cannot be read: {reason}")


def _require_growth(path: Path | str, entries: list[zipfile.ZipInfo]) -> None:
    claimed = sum(entry.file_size for entry in entries)
    allowed = _FREE + _GROWTH * Path(path).stat().st_size
    if claimed > allowed:
        raise DataError(f"{path}: would take {claimed:,} bytes in memory, at most {allowed:,} are read for its size")
    if strange := [entry.filename for entry in entries if entry.compress_type not in _METHODS]:
        raise DataError(f"{path}: {strange[0]!r} is compressed in a way that numpy does not write")


def _member(path: Path | str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(entry) as file:
        _require_size(path, file, entry.file_size)
    with archive.open(entry) as file:
        found: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _require_size(path: Path | str, file: IO[bytes], size: int) -> None:
    """Raise DataError or one of ``_DAMAGED`` unless the array that the header announces fits ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read_header(file)
    except (tokenize.TokenError, MemoryError) as error:  # of Python's parser, which reads the header
        raise ValueError(f"its header: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which are never read; store numbers and texts")
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size - file.tell():
        raise DataError(
            f"{path}: damaged: an array of {claimed:,} bytes is announced, {size - file.tell():,} are there"
        )


def _damaged(path: Path | str, error: Exception) -> DataError:
    return DataError(f"{path}: is no file of arrays, or damaged: {str(error)[:200]}")
