"""What a browser sends: a file in a folder of its own, read once, bounded, and deleted at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vplface.errors import DataError

MOST_BYTES = 20 * 2**20
"""Of one picture."""

MOST_PICTURES = 20
"""That are held at a time."""

_EVERY, _ABANDONED = 30.0, 120.0
"""Seconds."""


def taken(uploaded: Sequence[str], folder: Path, beside: Collection[Path] = ()) -> dict[Path, bytes]:
    """{file name: bytes} of uploaded files, which are deleted; a name that occurs twice gets a number.

    Args:
        uploaded: where the server says that it has put them; the browser had a say in it, so it is checked.
        folder: where uploads lie.
        beside: names that are there already.

    Raises:
        DataError: a path that leads out of the folder, too many files, or a file that is too large. The others are
            deleted all the same.
    """
    root = folder.resolve()
    files = [Path(each) for each in uploaded]
    for file in files:
        if file.is_symlink() or not file.is_file() or root not in file.resolve().parents:
            raise DataError("this is not a file that was uploaded here; upload it again")
    try:
        if len(files) > MOST_PICTURES:
            raise DataError(f"{len(files)} pictures at once; give at most {MOST_PICTURES}")
        pictures: dict[Path, bytes] = {}
        for file in files:
            if file.stat().st_size > MOST_BYTES:
                raise DataError(
                    f"{file.name}: larger than {MOST_BYTES // 2**20} MB, which is the limit; make the picture smaller"
                )
            pictures[_free(Path(file.name), {*beside, *pictures})] = file.read_bytes()
        return pictures
    finally:
        for file in files:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # another upload of the same bytes may lie there
                file.parent.rmdir()


def swept(folder: Path, older_than: float) -> int:
    """Delete abandoned uploads, those last written more than so many seconds ago; returns how many there were."""
    count = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            if not file.is_dir() and file.lstat().st_mtime < time.time() - older_than:
                file.unlink()
                count += 1
    return count


@contextmanager
def sweeping(folder: Path) -> Iterator[None]:
    """Delete abandoned uploads from time to time."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(_EVERY):
            swept(folder, _ABANDONED)

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
