"""Readers of untrusted .npy and .npz files: no pickles, and memory bounded by the size of the file."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from vplface.errors import DataError
from vplface.reading import MEBIBYTE, read_bytes

ARRAYS_LIMIT = 16 * 2**30
"""Largest array file that is read, in bytes."""

_FREE = 256 * MEBIBYTE
_GROWTH = 20
"""Allowed memory of a compressed file, as a multiple of its size, plus 256 MiB."""

_DAMAGED = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, OverflowError, NotImplementedError)
"""Exceptions of zipfile and numpy, which parses headers as Python, for damaged files."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_array(path: Path | str) -> np.ndarray[Any, Any]:
    """Read an .npy file; raises DataError as :func:`read_bytes` and :func:`parse_array`."""
    return parse_array(read_bytes(path, ARRAYS_LIMIT), path)


def parse_array(data: bytes, where: Path | str) -> np.ndarray[Any, Any]:
    """Parse the bytes of an .npy file.

    Args:
        data: the bytes.
        where: path of the file, for errors.

    Raises:
        DataError: the file holds Python objects, or claims a shape that is larger than the file.
    """
    try:
        return _array(where, BytesIO(data), len(data))
    except _DAMAGED as error:
        raise _damaged(where, error) from error


def read_arrays(path: Path | str, wanted: Collection[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Read an .npz file; raises DataError as :func:`read_bytes` and :func:`parse_arrays`."""
    return parse_arrays(read_bytes(path, ARRAYS_LIMIT), path, wanted)


def parse_arrays(
    data: bytes, where: Path | str, wanted: Collection[str] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Parse the bytes of an .npz file into arrays by name.

    Args:
        data: the bytes.
        where: path of the file, for errors.
        wanted: names to read; None for all.

    Raises:
        DataError: as :func:`parse_array`, the unpacked size is too large, or a wanted name is missing.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            names = list(members) if wanted is None else list(wanted)
            if missing := [name for name in names if name not in members]:
                raise DataError(f"{where}: lacks the array {missing[0]!r}; it holds {', '.join(members) or 'nothing'}")
            chosen = {name: members[name] for name in names}
            _require_growth(where, len(data), list(chosen.values()))
            return {name: _member(where, archive, entry) for name, entry in chosen.items()}
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error, OSError, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise _damaged(where, error) from error


def array_names(data: bytes, where: Path | str) -> list[str]:
    """Names of the arrays in the bytes of an .npz file; raises DataError as :func:`parse_arrays`."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (*_DAMAGED, zipfile.BadZipFile, OSError) as error:
        raise _damaged(where, error) from error


def _require_growth(path: Path | str, size: int, entries: list[zipfile.ZipInfo]) -> None:
    claimed = sum(entry.file_size for entry in entries)
    allowed = _FREE + _GROWTH * size
    if claimed > allowed:
        raise DataError(f"{path}: would take {claimed:,} bytes in memory, the limit for its size is {allowed:,}")
    if strange := [entry.filename for entry in entries if entry.compress_type not in _METHODS]:
        raise DataError(f"{path}: {strange[0]!r} is compressed in a way that numpy does not write")


def _member(path: Path | str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(entry) as file:
        return _array(path, file, entry.file_size)


def _array(path: Path | str, file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    _require_size(path, file, size)
    file.seek(0)
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
        raise ValueError("it holds Python objects, which are never read; store numbers and strings")
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size - file.tell():
        raise DataError(f"{path}: damaged: the header announces {claimed:,} bytes, the file has {size - file.tell():,}")


def _damaged(path: Path | str, error: Exception) -> DataError:
    return DataError(f"{path}: not an npy or npz file, or damaged: {str(error)[:200]}")
