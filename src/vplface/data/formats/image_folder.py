"""Pictures in folders: one folder per identity, in it the identity's pictures, in folders of their own or not."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from vplface.data.encoded import suffix_of
from vplface.data.formats.packed_names import PackedNames
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError
from vplface.progress import progress

PICTURE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LAYOUT = "expected ROOT/IDENTITY/PICTURE, with pictures of type " + ", ".join(PICTURE_TYPES)


class ImageFolder(StoredPictures):
    """The pictures below ``root/IDENTITY/``.

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
        names = [os.fsencode(f"{name}/{file}") for name, files in kept for file in files]
        self._names = PackedNames(b"".join(names), np.cumsum([len(name) for name in names]))

    def name(self, index: int) -> str:
        """The picture's path below the root: "Al_Gore/Al_Gore_0001.jpg"."""
        self._require(index)
        return os.fsdecode(self._names[index])

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


class ImageFolderWriter:
    """Pictures into ``root/IDENTITY/PICTURE``, bit for bit, :class:`~vplface.data.formats.PictureWriter`.

    Names stay as they are where a file system can hold them. What it cannot, or what would lead elsewhere or be passed
    over on reading (separators, "..", a leading dot, the names of devices), is replaced by "_"; of names that have
    become the same, or are, the later get a number: "x (2).jpg". A name without the suffix of a picture gets that of
    its bytes; ".jpg" if these are no picture, so that they are noticed and not passed over.

    A picture takes its name when all of it is written, and not before. A killed process is survived; after a cut of
    the power begin anew.
    """

    def __init__(self, path: Path | str, identities: Sequence[str]) -> None:
        """Make the folder, or count what an interrupted writing has left in it.

        Raises:
            DataError: if the folder cannot be made or read.
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
        folders = [entry.path for entry in _entries(self.root) if _is(entry, "dir")]
        self._written = sum(1 for folder in folders for _ in _pictures_below(Path(folder), "", ()))

    @property
    def written(self) -> int:
        """How many pictures are complete, those of an interrupted writing included."""
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
        """The path, or where that is taken the first with a number that is not."""
        free, number = path, 1
        while os.path.lexists(free):
            number += 1
            free = path.with_name(f"{path.stem} ({number}){path.suffix}")
        return free


def _folder_names(identities: Sequence[str]) -> list[str]:
    """A folder for each identity, all different."""
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
    """Where a picture goes below its identity's folder."""
    *folders, file = name.removeprefix(f"{identity}/").split("/")
    # A folder that is called like a picture would not be searched on reading.
    folders = [f"{folder}_" if _is_picture(folder) else folder for folder in map(_safe, folders)]
    return "/".join([*folders, _safe(file if _is_picture(file) else file + suffix_of(encoded))])


_LONGEST = 240  # bytes; file systems allow 255, and a number may follow
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_UNSAFE = re.compile(r'[\0-\x1f\x7f/\\<>:"|?*]' if sys.platform == "win32" else r"[\0-\x1f\x7f/\\]")


def _safe(name: str) -> str:
    """The name as one that a file can have; its beginning and a hash if it is too long."""
    safe = _UNSAFE.sub("_", name)
    if not safe or safe.startswith(".") or _DEVICE.match(safe):
        safe = f"_{safe}"
    coded = os.fsencode(safe)
    if len(coded) > _LONGEST:
        ending = Path(safe).suffix if _is_picture(safe) else ""
        digest = hashlib.sha256(coded).hexdigest()[:16]
        safe = coded[:200].decode(errors="ignore") + digest + ending
    return safe


def _unwritable(error: OSError, path: Path) -> DataError:
    return DataError(
        f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder, then repeat "
        "the command: it keeps the pictures that are complete"
    )


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key under which digits count as numbers; the name itself decides between "1" and "01"."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2] if isinstance(digits, str)]
    return parts, name


def _identity_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a folder' if root.exists() else 'does not exist'}; {LAYOUT}")
    folders, strays = [], []
    for entry in _entries(root):
        if _is(entry, "dir"):
            folders.append(entry.name)
        elif _is_picture(entry.name):
            strays.append(entry.name)
    if strays:
        raise DataError(f"{root}: {len(strays)} pictures lie directly in the root, {min(strays)!r} for one; {LAYOUT}")
    if not folders:
        raise DataError(f"{root}: holds no identity folders; {LAYOUT}")
    return sorted(folders, key=natural)


def _scan(root: Path, folders: list[str]) -> list[tuple[str, list[str]]]:
    """The pictures of each folder as paths below it, in natural order."""
    found = []
    with progress(f"scanning {root}", len(folders)) as advance:
        for name in folders:
            pictures = _pictures_below(root / name, "", (os.path.realpath(root),))
            found.append((name, sorted(pictures, key=natural)))
            advance(1)
    return found


def _pictures_below(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterable[str]:
    for entry in _entries(folder):
        if _is_picture(entry.name):
            if _is(entry, "file"):
                yield prefix + entry.name
        elif _is(entry, "dir"):
            chain = (*above, os.path.realpath(folder))
            if os.path.realpath(entry.path) not in chain:  # else a link that leads back up
                yield from _pictures_below(Path(entry.path), f"{prefix}{entry.name}/", chain)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _is(entry: os.DirEntry[str], kind: Literal["dir", "file"]) -> bool:
    """Whether an entry is a folder or a file, or a link to one; a link that leads to itself is neither."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:
        return False


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_TYPES)
