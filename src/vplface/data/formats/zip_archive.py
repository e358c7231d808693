"""Pictures in a .zip file, in a folder for each identity; nothing is extracted."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vplface.data.formats.packed_names import PackedNames
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.data.walk import PICTURE_TYPES, natural
from vplface.errors import DataError

LAYOUT = "expected FOLDERS/IDENTITY/PICTURE, with pictures of type " + ", ".join(PICTURE_TYPES)
MOST_BYTES = 2**28
"""A picture that claims to unpack to more is no honest one."""


class ZipArchive(StoredPictures):
    """The pictures in a .zip file; an identity is the folder that holds them, however deep it lies.

    Names are below the folders that all pictures have in common. ``split`` takes the pictures below a folder at the
    top. Identities and pictures are in natural order. Hidden files, ``__MACOSX`` and files of other types are passed
    over; of several files with one name the last counts.
    """

    def __init__(self, path: Path | str, split: str | None = None) -> None:
        """Read the directory of the archive; pictures are read only when asked for.

        Raises:
            DataError: if the archive is missing or damaged, holds no pictures, has no such split, or has a name that
                leads out of it.
        """
        self.path = Path(path)
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        found = [name.split("/") for name in self._archive().namelist() if _is_picture(name)]
        if outside := [parts for parts in found if parts[0] == "" or ".." in parts]:
            raise DataError(f"{self.path}: {'/'.join(outside[0])!r} leads out of the archive")
        if split is not None:
            splits = sorted({parts[0] for parts in found}, key=natural)
            if split not in splits:
                raise DataError(f"{self.path}: no split {split!r}; the folders at the top are {', '.join(splits)}")
            found = [parts for parts in found if parts[0] == split]
        if not found:
            raise DataError(f"{self.path}: holds no pictures; {LAYOUT}")
        common = _common(found)
        self._root = "".join(f"{part}/" for part in found[0][:common])
        if stray := next((parts for parts in found if len(parts) == common + 1), None):
            raise DataError(f"{self.path}: {'/'.join(stray)!r} lies in no identity's folder; {LAYOUT}")
        below = sorted({("/".join(parts[common:-1]), parts[-1]) for parts in found}, key=_by_nature)
        self._identities = list(dict.fromkeys(identity for identity, _ in below))
        place = {identity: label for label, identity in enumerate(self._identities)}
        self._labels = np.array([place[identity] for identity, _ in below])
        names = [f"{identity}/{name}".encode(errors="surrogateescape") for identity, name in below]
        self._names = PackedNames(b"".join(names), np.cumsum([len(name) for name in names]))

    def name(self, index: int) -> str:
        """The picture's path below the folders that all have in common."""
        self._require(index)
        return self._names[index].decode(errors="surrogateescape")

    def where(self, index: int) -> str:
        """The archive and the path in it."""
        return f"{self.path}: {self._root}{self.name(index)}"

    def encoded(self, index: int) -> bytes:
        """The unpacked bytes; raises UnreadablePictureError with archive, path in it and the reason."""
        name = self._root + self.name(index)
        try:
            archive = self._archive()
            size = archive.getinfo(name).file_size
            if size > MOST_BYTES:
                raise UnreadablePictureError(self.where(index), f"claims to unpack to {size:,} bytes")
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "is cut short"
        except NotImplementedError as error:
            reason = f"is packed in a way that Python does not know ({error})"
        except RuntimeError:
            reason = "is encrypted; unpack the archive with its password and give the folder"
        raise UnreadablePictureError(self.where(index), reason)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _archive(self) -> zipfile.ZipFile:
        """The archive, opened by this process: a position in a file is shared with processes forked from it."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise DataError(f"{self.path}: no whole .zip file ({error}); copy it again") from error
            except OSError as error:
                reason = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror or error
                raise DataError(f"{self.path}: {reason}") from error
        return self._opened[1]


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    return name.lower().endswith(PICTURE_TYPES) and not hidden


def _common(paths: list[list[str]]) -> int:
    """How many folders all paths begin with; of one identity's pictures its own folder is not one of them."""
    first, last = min(paths), max(paths)
    shortest = min(len(path) for path in paths)
    equal = next((k for k in range(shortest - 1) if first[k] != last[k]), shortest - 1)
    return min(equal, shortest - 2) if len({tuple(path[:-1]) for path in paths}) == 1 else equal


def _by_nature(picture: tuple[str, str]) -> tuple[Any, Any]:
    identity, name = picture
    return natural(identity), natural(name)
