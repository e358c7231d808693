"""Pictures in folders: one folder per identity, in it the identity's pictures, in folders of their own or not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vplface.data.pictures import Picture, UnreadablePictureError, decode
from vplface.errors import DataError
from vplface.progress import progress

PICTURE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LAYOUT = "expected ROOT/IDENTITY/PICTURE, with pictures of type " + ", ".join(PICTURE_TYPES)


class ImageFolder:
    """The pictures below ``root/IDENTITY/``, :class:`~vplface.data.pictures.StoredPictures`.

    Identities and pictures are in natural order ("2.jpg" before "10.jpg"), whatever the order of the file
    system. Hidden files and files of other types are passed over. An identity without pictures is none.
    """

    def __init__(self, root: Path | str) -> None:
        """Scan the folder; pictures are opened only when asked for.

        Raises:
            DataError: if the root is missing, not laid out as expected, or holds no pictures.
        """
        self.root = Path(root)
        kept = [(name, files) for name, files in _scan(self.root, _identity_folders(self.root)) if files]
        if not kept:
            raise DataError(f"{self.root}: holds no pictures; {LAYOUT}")
        self._identities = [name for name, _ in kept]
        self._labels = np.repeat(np.arange(len(kept)), [len(files) for _, files in kept])
        # All names in one string of bytes: millions of small strings would be copied into every forked worker
        # as soon as their reference counts are touched.
        encoded = [os.fsencode(f"{name}/{file}") for name, files in kept for file in files]
        self._ends = np.cumsum([len(name) for name in encoded])
        self._names = b"".join(encoded)

    @property
    def identities(self) -> Sequence[str]:
        """The folders' names."""
        return self._identities

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """The picture's path below the root: "Al_Gore/Al_Gore_0001.jpg"."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}, got {index}")
        return os.fsdecode(self._names[self._ends[index - 1] if index else 0 : self._ends[index]])

    def path(self, index: int) -> Path:
        """Where the picture's file is."""
        return self.root / self.name(index)

    def where(self, index: int) -> str:
        """The path as text, for errors."""
        return str(self.path(index))

    def encoded(self, index: int) -> bytes:
        """The file's bytes; raises UnreadablePictureError with its path and the reason."""
        path = self.path(index)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnreadablePictureError(str(path), error.strerror or str(error)) from error

    def picture(self, index: int) -> Picture:
        """Read and decode one picture; raises UnreadablePictureError with its path and the reason."""
        return decode(self.encoded(index), self.where(index))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key under which digits count as numbers; the name itself decides between "1" and "01"."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2] if isinstance(digits, str)]
    return parts, name


def _identity_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a folder' if root.exists() else 'does not exist'}; {LAYOUT}")
    folders, strays = [], []
    for entry in _entries(root):
        if entry.is_dir():
            folders.append(entry.name)
        elif _is_picture(entry.name):
            strays.append(entry.name)
    if strays:
        raise DataError(f"{root}: {len(strays)} pictures lie directly in the root, {min(strays)!r} for one; {LAYOUT}")
    if not folders:
        raise DataError(f"{root}: holds no identity folders; {LAYOUT}")
    return sorted(folders, key=_natural)


def _scan(root: Path, folders: list[str]) -> list[tuple[str, list[str]]]:
    """The pictures of each folder as paths below it, in natural order."""
    found = []
    with progress(f"scanning {root}", len(folders)) as advance:
        for name in folders:
            found.append((name, sorted(_pictures_below(root / name, "", ()), key=_natural)))
            advance(1)
    return found


def _pictures_below(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterable[str]:
    for entry in _entries(folder):
        if _is_picture(entry.name):
            if entry.is_file():
                yield prefix + entry.name
        elif entry.is_dir():
            chain = (*above, os.path.realpath(folder))
            if os.path.realpath(entry.path) not in chain:  # else a link that leads back up
                yield from _pictures_below(Path(entry.path), f"{prefix}{entry.name}/", chain)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_TYPES)
