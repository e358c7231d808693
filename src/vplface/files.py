"""Files that are either the old one or the new one, whatever happens while they are written, and by whom."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vplface.errors import DataError, import_extra


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, what was written there becomes ``path``.

    The file is flushed to the disk before it takes the name, so neither a killed process nor a full disk leaves half
    a file under it.

    Raises:
        DataError: naming ``path``, if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; what was there before is unharmed") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, otherwise: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the folder's ``.lock``, which ends with this process, whatever ends it.

    Args:
        folder: exists.
        otherwise: what to say of the folder if another process holds it.
        patience: seconds to wait for that one.

    Raises:
        DataError: if it still does.
        OSError: if the folder cannot be written.
    """
    filelock = import_extra("filelock", "train")
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise DataError(f"{folder}: {otherwise}") from error
    try:
        yield
    finally:
        lock.release()
