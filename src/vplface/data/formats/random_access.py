"""Random access to files for forked processes and threads, without memory maps.

Reading a memory map of a file that was truncated, or of a failing file system, kills the process.
"""

from __future__ import annotations

import io
import os
import threading
import weakref
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt32

from vplface.errors import DataError
from vplface.reading import open_regular

_BLOCK = 2**20
"""Size of a block, in bytes, for reading many nearby words at once."""

_WORTH_A_BLOCK = 64
"""Number of places in a block from which one read of it is faster than one read each."""


class Stamp(NamedTuple):
    """Size and modification time of a file, to detect changes."""

    size: int
    modified: int


def stamp_of(file: Path | int) -> Stamp:
    """The stamp of a path or of an open file; raises OSError."""
    status = os.stat(file)  # noqa: PTH116 - it takes descriptors too
    return Stamp(status.st_size, status.st_mtime_ns)


class FileChangedError(OSError):
    """Raised if a file has changed since it was opened."""

    def __init__(self, then: Stamp, now: Stamp) -> None:
        sizes = f"it had {then.size:,} bytes and now has {now.size:,}" if then.size != now.size else "it was written to"
        super().__init__(f"the file has changed since it was opened: {sizes}; start again when it is complete")


class Source(Protocol):
    """Bytes with random access."""

    @property
    def size(self) -> int:
        """Size of the source, in bytes."""

    def read(self, start: int, count: int) -> bytes:
        """Read ``count`` bytes at ``start``, fewer only at the end; raises OSError."""


class RandomAccess:
    """Regular file with random access.

    The file stays open, so a replaced file is still read in its old version. A pickled copy opens the path again and
    requires the file to be the same.

    Attributes:
        path: path of the file.
        stamp: stamp of the file when it was opened.
    """

    def __init__(self, path: Path, stamp: Stamp | None = None) -> None:
        """Open the file.

        Args:
            path: path of the file.
            stamp: required stamp of the file; None accepts any.

        Raises:
            DataError: the file cannot be opened, is not a regular file, or has another stamp.
        """
        self.path = path
        self._handle = open_regular(path)
        weakref.finalize(self, os.close, self._handle)
        self.stamp = stamp_of(self._handle)
        if stamp is not None and stamp != self.stamp:
            raise DataError(f"{path}: {FileChangedError(stamp, self.stamp)}")
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[type[RandomAccess], tuple[Path, Stamp]]:
        return RandomAccess, (self.path, self.stamp)

    @property
    def size(self) -> int:
        """Size of the file when it was opened, in bytes."""
        return self.stamp.size

    def read(self, start: int, count: int) -> bytes:
        """Read ``count`` bytes at ``start``, fewer only at the end.

        Raises:
            FileChangedError: the file has become shorter.
            OSError: the file cannot be read.
        """
        count = max(0, min(count, self.size - start))
        data = self._at(start, count)
        while len(data) < count:
            more = self._at(start + len(data), count - len(data))
            if not more:
                raise FileChangedError(self.stamp, stamp_of(self._handle))
            data += more
        return data

    def require_unchanged(self) -> None:
        """Raise FileChangedError if the file has changed since it was opened."""
        if (now := stamp_of(self._handle)) != self.stamp:
            raise FileChangedError(self.stamp, now)

    def words_at(self, places: Int64[np.ndarray, " n"], count: int) -> UInt32[np.ndarray, "n count"]:
        """Read ``count`` little-endian words at each place, a multiple of 4; zeros beyond the end of the file.

        Nearby ascending places are read together.
        """
        words = np.zeros((len(places), count), np.uint32)
        if len(places) == 0:
            return words
        if (np.diff(places) < 0).any():
            order = np.argsort(places, kind="stable")
            words[order] = self.words_at(places[order], count)
            return words
        begin = 0
        while begin < len(places):
            first = int(places[begin])
            end = int(np.searchsorted(places, first + _BLOCK - 4 * count, side="right"))
            if end - begin >= _WORTH_A_BLOCK:
                block = self.read(first, int(places[end - 1]) - first + 4 * count)
                block += bytes(int(places[end - 1]) - first + 4 * count - len(block))
                inside = (places[begin:end] - first) // 4
                words[begin:end] = np.frombuffer(block, "<u4")[inside[:, None] + np.arange(count)]
            else:
                end = min(begin + _WORTH_A_BLOCK, len(places))
                each = [self.read(place, 4 * count).ljust(4 * count, b"\0") for place in places[begin:end].tolist()]
                words[begin:end] = np.frombuffer(b"".join(each), "<u4").reshape(-1, count)
            begin = end
        return words

    def _at(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._handle, count, start)
        with self._one_at_a_time:  # Windows
            os.lseek(self._handle, start, os.SEEK_SET)
            return os.read(self._handle, count)


class AsFile(io.RawIOBase):
    """File object on a source, for libraries that need one."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source, self._at = source, 0

    def readable(self) -> bool:
        """Whether the file can be read: always true."""
        return True

    def seekable(self) -> bool:
        """Whether the file can be positioned: always true."""
        return True

    def tell(self) -> int:
        """Current position in the file."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position; returns the new one."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, or all that are left if it is negative."""
        data = self._source.read(self._at, self._source.size if size is None or size < 0 else size)
        self._at += len(data)
        return data


class ReadAhead:
    """Read-ahead buffer for sequential reads in small pieces, for one thread.

    Attributes:
        source: the source, for reads out of order.
    """

    def __init__(self, source: Source, ahead: int = 2**18) -> None:
        self.source, self._ahead = source, ahead
        self._start, self._block = 0, b""

    @property
    def size(self) -> int:
        """Size of the source, in bytes."""
        return self.source.size

    def read(self, start: int, count: int) -> bytes:
        """Read as the source does; long reads are not buffered."""
        at = start - self._start
        if at >= 0 and at + count <= len(self._block):
            return self._block[at : at + count]
        if count >= self._ahead:
            return self.source.read(start, count)
        self._start, self._block = start, self.source.read(start, self._ahead)
        return self._block[:count]

    def find(self, byte: bytes, start: int, stop: int | None = None) -> int:
        """Position of the first occurrence of a byte within start ... stop; −1 if there is none."""
        stop = self.size if stop is None else min(stop, self.size)
        while start < stop:
            piece = self.read(start, min(4096, stop - start))
            if (found := piece.find(byte)) >= 0:
                return start + found
            start += len(piece)
        return -1
