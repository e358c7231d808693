"""Uploaded files: limits, reading, and deletion after use."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vplface.errors import DataError

MAX_PICTURE_BYTES = 20 * 2**20
"""Size limit of one picture."""

MAX_PICTURES = 20
"""Limit of pictures held in one visit."""

_CLEANUP_INTERVAL, _ABANDONED_AFTER = 30.0, 120.0
"""Seconds between clean-ups, and the age at which an upload counts as abandoned."""


def take_uploads(uploaded: Sequence[str], folder: Path, taken_names: Collection[Path] = ()) -> dict[Path, bytes]:
    """Read uploaded files into {file name: bytes} and delete them; a duplicate name gets a number.

    Args:
        uploaded: paths of the uploads. The browser can influence them, so they are checked.
        folder: folder of the uploads.
        taken_names: names already in use.

    Raises:
        DataError: a path outside the folder, too many files, or a file that is too large. The other files are still
            deleted.
    """
    root = folder.resolve()
    files = [Path(each) for each in uploaded]
    for file in files:
        if file.is_symlink() or not file.is_file() or root not in file.resolve().parents:
            raise DataError("this is not a file that was uploaded here; upload it again")
    try:
        if len(files) > MAX_PICTURES:
            raise DataError(f"{len(files)} pictures at once; upload at most {MAX_PICTURES}")
        pictures: dict[Path, bytes] = {}
        for file in files:
            if file.stat().st_size > MAX_PICTURE_BYTES:
                raise DataError(
                    f"{file.name}: larger than the limit of {MAX_PICTURE_BYTES // 2**20} MB; reduce the picture"
                )
            pictures[_free(Path(file.name), {*taken_names, *pictures})] = file.read_bytes()
        return pictures
    finally:
        for file in files:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # the folder may hold another upload of the same bytes
                file.parent.rmdir()


def delete_abandoned(folder: Path, older_than: float) -> int:
    """Delete uploads last written more than ``older_than`` seconds ago; returns their number."""
    count = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            if not file.is_dir() and file.lstat().st_mtime < time.time() - older_than:
                file.unlink()
                count += 1
    return count


@contextmanager
def periodic_cleanup(folder: Path) -> Iterator[None]:
    """Delete abandoned uploads in a background thread within the block."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(_CLEANUP_INTERVAL):
            delete_abandoned(folder, _ABANDONED_AFTER)

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _free(name: Path, names: Collection[Path]) -> Path:
    free, number = name, 1
    while free in names:
        number += 1
        free = name.with_stem(f"{name.stem} ({number})")
    return free
