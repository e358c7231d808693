"""Image folders, ROOT/IDENTITY/PICTURE: reader and writer."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from vplface.data.encoded import suffix_of
from vplface.data.folder_scan import (
    PICTURE_TYPES,
    LeftOut,
    but_note,
    ending_of,
    entries,
    find_pictures,
    format_counts,
    is_picture,
    kind_of_entry,
    natural_key,
)
from vplface.data.formats.packed_names import PackedNames
from vplface.data.pictures import StoredPictures, read_picture_file
from vplface.errors import DataError
from vplface.progress import progress
from vplface.reading import is_folder, kind_of

LAYOUT = "expected ROOT/IDENTITY/PICTURE, with pictures of type " + ", ".join(PICTURE_TYPES)


class ImageFolder(StoredPictures):
    """Pictures below ``root/IDENTITY/``, at any depth.

    Identities and pictures are in natural order ("2.jpg" before "10.jpg"), whatever the order of the file
    system. Hidden files and files of other types are skipped, see :mod:`vplface.data.folder_scan`. An identity
    without pictures does not count.
    """

    def __init__(self, root: Path | str) -> None:
        """Scan the folder; pictures are opened only when asked for.

        Raises:
            DataError: the root is missing, has another layout, or holds no pictures.
        """
        self.root = Path(root)
        found, self._left_out = _scan(self.root)
        kept = [(name, files) for name, files in found if files]
        self._identities = [name for name, _ in kept]
        self._labels = np.repeat(np.arange(len(kept)), [len(files) for _, files in kept])
        names = [os.fsencode(f"{name}/{file}") for name, files in kept for file in files]
        self._names = PackedNames(b"".join(names), np.cumsum([len(name) for name in names]))

    def name(self, index: int) -> str:
        """The picture's path below the root: "Al_Gore/Al_Gore_0001.jpg"."""
        self._require(index)
        return os.fsdecode(self._names[index])

    def path(self, index: int) -> Path:
        """Path of the picture's file."""
        return self.root / self.name(index)

    def where(self, index: int) -> str:
        """Path of the picture's file as text, for errors."""
        return str(self.path(index))

    def encoded(self, index: int) -> bytes:
        """The file's bytes; raises UnreadablePictureError with its path and the reason."""
        return read_picture_file(self.path(index))


class ImageFolderWriter:
    """Writes pictures to ``root/IDENTITY/PICTURE``, bit for bit; a :class:`~vplface.data.formats.PictureWriter`.

    Names are kept where possible. Characters that a file system cannot hold, or that would lead elsewhere or hide the
    file (separators, "..", a leading dot, device names), become "_". Duplicate names get a number: "x (2).jpg". A name
    without a picture suffix gets that of its bytes, or ".jpg" if they are not a picture, so that reading reports them.

    A picture gets its final name only when it is complete, so the folder survives a killed process, but not a power
    failure.
    """

    def __init__(self, path: Path | str, identities: Sequence[str]) -> None:
        """Create the folder, or count the pictures of an interrupted writer.

        Raises:
            DataError: the folder cannot be created or read.
        """
        self.root = Path(path)
        self._identities = list(identities)
        self._folders = _folder_names(self._identities)
        self._part = self.root / ".part"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._part.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(error, self.root) from error
        folders = [entry.path for entry in entries(self.root) if kind_of_entry(entry) == "folder"]
        self._written = sum(len(find_pictures(Path(folder)).pictures) for folder in folders)

    @property
    def written(self) -> int:
        """Number of complete pictures, including those of an interrupted writer."""
        return self._written

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Write one picture; raises DataError if that cannot be done."""
        path = self._free(self.root / self._folders[label] / _below(self._identities[label], name, encoded))
        try:
            self._part.write_bytes(encoded)
            try:
                self._part.rename(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._part.rename(path)
        except OSError as error:
            raise _unwritable(error, path) from error
        self._written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.unlink(missing_ok=True)

    @staticmethod
    def _free(path: Path) -> Path:
        """The path, or the first numbered variant that does not exist."""
        free, number = path, 1
        while os.path.lexists(free):
            number += 1
            free = path.with_name(f"{path.stem} ({number}){path.suffix}")
        return free


def _folder_names(identities: Sequence[str]) -> list[str]:
    """Distinct folder name for each identity."""
    folders: list[str] = []
    taken: set[str] = set()
    merges_cases = sys.platform in ("darwin", "win32")
    for identity in identities:
        wanted = folder = _safe(identity)
        number = 1
        while (key := folder.casefold() if merges_cases else folder) in taken:
            number += 1
            folder = f"{wanted} ({number})"
        taken.add(key)
        folders.append(folder)
    return folders


def _below(identity: str, name: str, encoded: bytes) -> str:
    """Path of a picture below its identity's folder."""
    *folders, file = name.removeprefix(f"{identity}/").split("/")
    return "/".join([*map(_safe, folders), _safe(file if is_picture(file) else file + suffix_of(encoded))])


_LONGEST = 240  # bytes; file systems allow 255, and a number may follow
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_UNSAFE = re.compile(r'[\0-\x1f\x7f/\\<>:"|?*]' if sys.platform == "win32" else r"[\0-\x1f\x7f/\\]")


def _safe(name: str) -> str:
    """Name that a file system can hold; a long one is cut and gets a hash."""
    safe = _UNSAFE.sub("_", name)
    if not safe or safe.startswith(".") or _DEVICE.match(safe):
        safe = f"_{safe}"
    coded = os.fsencode(safe)
    if len(coded) > _LONGEST:
        ending = Path(safe).suffix if is_picture(safe) else ""
        digest = hashlib.sha256(coded).hexdigest()[:16]
        safe = coded[:200].decode(errors="ignore") + digest + ending
    return safe


def _unwritable(error: OSError, path: Path) -> DataError:
    return DataError(
        f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder, then repeat "
        "the command: it keeps the pictures that are complete"
    )


def _scan(root: Path) -> tuple[list[tuple[str, list[str]]], LeftOut]:
    """Relative paths of each identity's pictures, in natural order, and the files left out."""
    if not is_folder(root):
        raise DataError(f"{root}: {'does not exist' if kind_of(root) is None else 'is not a folder'}; {LAYOUT}")
    beside = {entry.name: kind_of_entry(entry) for entry in entries(root)}
    folders = sorted((name for name, kind in beside.items() if kind == "folder"), key=natural_key)
    files = [name for name, kind in beside.items() if kind == "file"]
    if strays := [name for name in files if is_picture(name)]:
        raise DataError(f"{root}: {len(strays)} pictures lie directly in the root, such as {min(strays)!r}; {LAYOUT}")
    others = Counter(map(ending_of, files))
    if not folders:
        raise DataError(f"{root}: holds no identity folders{but_note(LeftOut.of(others))}; {LAYOUT}")
    found: list[tuple[str, list[str]]] = []
    irregular, people = sorted(name for name, kind in beside.items() if kind == "other"), []
    above = (os.path.realpath(root),)
    with progress(f"scanning {root}", len(folders)) as advance:
        for name in folders:
            inside = find_pictures(root / name, above)
            found.append((name, sorted(inside.pictures, key=natural_key)))
            others += inside.others
            irregular += [f"{name}/{path}" for path in inside.irregular]
            if inside.left_out and not inside.pictures:
                people.append(name)
            advance(1)
    left_out = LeftOut.of(others, irregular, people)
    if not any(pictures for _, pictures in found):
        raise DataError(f"{root}: holds no pictures{but_note(left_out or format_counts(others))}; {LAYOUT}")
    return found, left_out
