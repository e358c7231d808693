"""Writing files: each is the old one or the new one, whatever happens while it is written, and by whom."""

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
"""The mode of files that hold embeddings or names: only their owner reads and writes them."""

# The second form is that of earlier versions: .model.safetensors.XXXXXXXX.safetensors.
_TEMPORARY = re.compile(r"\.(.*)\.tmp-[0-9a-f]{12}(\.[^.]*)?|\.(.*(\.[^.]+))\.[a-z0-9_]{8}\4", re.DOTALL)


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block succeeds, what was written there becomes ``path``.

    The file is flushed to the disk before it takes the name, and the folder after it. Neither a killed process, nor a
    full disk, nor a loss of power leaves half a file under the name. Where ``path`` is a symbolic link, the file that
    it leads to is replaced and the link stays.

    Args:
        path: the file; its folder is made if it is missing.
        mode: the permissions of the file, for example :data:`PRIVATE`. None keeps those of the file that is there, and
            gives a new file what the umask allows.

    Raises:
        DataError: naming ``path``, if it cannot be written or is not a regular file.
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
        raise DataError(f"cannot write {path}: {_reason(error)}; what was there before is unharmed") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write a value as indented JSON, atomically; bytes of a name that are not UTF-8 are escaped.

    Args:
        path: the file.
        value: what to write.
        mode: the file's permissions, see :func:`replacing`.
    """
    with replacing(path, mode) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def flush_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder durable, where the file system can."""
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
    """Delete what killed processes left of :func:`replacing` in a folder.

    Args:
        folder: exists.
        of: a pattern, as for :mod:`fnmatch`, of the names of the files that were to be replaced; nobody else may be
            replacing one of them.
    """
    for entry in folder.iterdir():
        if (found := _TEMPORARY.fullmatch(entry.name)) and fnmatch.fnmatchcase(found[1] or found[3], of):
            entry.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, otherwise: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the folder's ``.lock``, which ends with this process, whatever ends it.

    Args:
        folder: exists.
        otherwise: what to say of the folder if another process holds it.
        patience: seconds to wait for that one.

    Raises:
        DataError: if another process still holds it, or if ``.lock`` is a symbolic link, which is never followed.
        OSError: if the folder cannot be written.
    """
    with _held(folder / ".lock", folder, otherwise, patience):
        yield


@contextmanager
def claimed(target: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold ``.NAME.lock`` beside a file or folder that is being written; it goes when it is done with.

    The lock of a process that was killed holds nobody up.

    Args:
        target: may be missing; the folder that it lies in is made.
        patience: seconds to wait for another process.

    Raises:
        DataError: if another process still holds it, or its folder cannot be written.
    """
    real = Path(os.path.realpath(target))
    path = real.with_name(f".{real.name}.lock")
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            otherwise = "another command is writing there; wait for it, or choose another place"
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
    """An empty file beside the target, with the mode that the umask leaves of ``mode``."""
    stem = os.fsdecode(os.fsencode(target.name)[:180])
    temporary = target.with_name(f".{stem}.tmp-{secrets.token_hex(6)}{target.suffix[:20]}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    return temporary


def _flush(path: Path) -> None:
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
