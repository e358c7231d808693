"""Atomic replacement of files, and locks for writers."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vplface.errors import DataError, import_extra

PRIVATE = 0o600
"""Mode of files with embeddings or names, accessible to their owner only."""

# The second form is that of earlier versions: .model.safetensors.XXXXXXXX.safetensors.
_TEMPORARY = re.compile(r"\.(.*)\.tmp-[0-9a-f]{12}(\.[^.]*)?|\.(.*(\.[^.]+))\.[a-z0-9_]{8}\4", re.DOTALL)


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; if the block succeeds, the file written there becomes ``path``.

    The file is flushed to disk before it is renamed, and its folder afterwards, so that a killed process, a full disk
    or a power failure never leaves a partial file. If ``path`` is a symbolic link, its target is replaced.

    Args:
        path: file to replace; a missing folder is created.
        mode: permissions of the file, such as :data:`PRIVATE`. None keeps those of an existing file, and uses the umask
            for a new one.

    Raises:
        DataError: ``path`` cannot be written or is not a regular file.
    """
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        there = _mode_of(target)
        mode = there if mode is None else mode
        temporary = _create(target, 0o666 if mode is None else mode)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {path}: {_reason(error)}") from error
    try:
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(target)
        flush_folder(target.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {_reason(error)}; the previous file is unchanged") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write a value as indented JSON, atomically; bytes of a name that are not UTF-8 are escaped.

    Args:
        path: the file.
        value: the value to write.
        mode: the file's permissions, see :func:`replacing`.
    """
    with replacing(path, mode) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def flush_folder(folder: Path) -> None:
    """Flush changes of a folder's entries to disk, if the file system supports it."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, of: str = "*") -> None:
    """Delete temporary files of :func:`replacing` that killed processes left in a folder.

    Args:
        folder: existing folder.
        of: :mod:`fnmatch` pattern of the names of the replaced files; no other process may be replacing them.
    """
    for entry in folder.iterdir():
        if (found := _TEMPORARY.fullmatch(entry.name)) and fnmatch.fnmatchcase(found[1] or found[3], of):
            entry.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, otherwise: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the folder's ``.lock``, which is released when the process ends.

    Args:
        folder: existing folder.
        otherwise: error message if another process holds the lock.
        patience: seconds to wait for the lock.

    Raises:
        DataError: another process still holds the lock, or ``.lock`` is a symbolic link, which is never followed.
        OSError: the folder cannot be written.
    """
    with _held(folder / ".lock", folder, otherwise, patience):
        yield


@contextmanager
def claimed(target: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold ``.NAME.lock`` beside a file or folder while it is written, then delete it.

    The lock of a killed process does not block others.

    Args:
        target: file or folder, which may be missing; its parent is created.
        patience: seconds to wait for another process.

    Raises:
        DataError: another process still holds the lock, or the folder cannot be written.
    """
    real = Path(os.path.realpath(target))
    path = real.with_name(f".{real.name}.lock")
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            otherwise = "another command is writing there; wait for it, or choose another path"
            held.enter_context(_held(path, target, otherwise, patience))
        except OSError as error:
            raise DataError(f"{target}: cannot be written ({_reason(error)})") from error
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


@contextmanager
def _held(path: Path, what: Path, otherwise: str, patience: float) -> Iterator[None]:
    filelock = import_extra("filelock", "train")
    if path.is_symlink():
        raise DataError(f"{path}: is a symbolic link, and locks never follow one; delete it")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise DataError(f"{what}: {otherwise}") from error
    try:
        yield
    finally:
        lock.release()


def _mode_of(target: Path) -> int | None:
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise ValueError("it is not a regular file")
    return stat.S_IMODE(found)


def _create(target: Path, mode: int) -> Path:
    """Create an empty file beside the target, with ``mode`` restricted by the umask."""
    stem = os.fsdecode(os.fsencode(target.name)[:180])
    temporary = target.with_name(f".{stem}.tmp-{secrets.token_hex(6)}{target.suffix[:20]}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    return temporary


def _flush(path: Path) -> None:
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
