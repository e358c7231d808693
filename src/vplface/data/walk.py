"""Which files below a folder are pictures, for every command that takes a folder of them, and what is left out."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vplface.errors import DataError

PICTURE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of the files that are read."""

_NOT_READ = re.compile(
    r"\.(?:heic|heif|hif|avif|avifs|tif|tiff|gif|jxl|jp2|j2k|jpf|jpx|jpm|j2c|jpc|jxr|wdp|hdp|jfif|jif|jpe|mpo|jps"
    r"|raw|dng|cr2|cr3|crw|nef|nrw|arw|srf|sr2|orf|rw2|rwl|raf|pef|srw|x3f|3fr|fff|iiq|mrw|erf|kdc|dcr|mef|mos"
    r"|psd|xcf|eps|svg|tga|ppm|pgm|pbm|pnm|pam|pfm|exr|hdr|dds|ico|apng|bpg|qoi|flif|pcx|sgi|ras)"
)
"""Endings of pictures of other kinds."""
_MOST_VISITS = 100
_FEW = 5


@dataclass(frozen=True)
class LeftOut:
    """What a set leaves out although it may well be pictures; false if that is nothing.

    Attributes:
        kinds: how many files of each kind of picture that is not read, by their endings.
        irregular: entries that are neither files nor folders: links that lead nowhere, pipes, devices.
        people: identities that have nothing else.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    irregular: Sequence[str] = ()
    people: Sequence[str] = ()

    @classmethod
    def of(cls, endings: Mapping[str, int], irregular: Sequence[str] = (), people: Sequence[str] = ()) -> LeftOut:
        """Of files that are no pictures, counted by their endings, those that are pictures of a kind that is not read.

        A set that has only the names of its files counts them by :func:`ending_of`.
        """
        kinds = {kind: count for kind, count in Counter(endings).most_common() if _NOT_READ.fullmatch(kind)}
        return cls(kinds, irregular, people)

    def __bool__(self) -> bool:
        return bool(self.kinds or self.irregular)

    def __add__(self, other: LeftOut) -> LeftOut:
        kinds = Counter(self.kinds) + Counter(other.kinds)
        return LeftOut(dict(kinds.most_common()), [*self.irregular, *other.irregular], [*self.people, *other.people])

    def __str__(self) -> str:
        notes = []
        if self.kinds:
            count = sum(self.kinds.values())
            which, them = (
                ("1 file of an unsupported format was", "it")
                if count == 1
                else (f"{count:,} files of unsupported formats were", "them")
            )
            notes.append(f"{which} left out: {counted(self.kinds)}; convert {them} to JPEG")
        if self.irregular:
            count = len(self.irregular)
            which = (
                "1 entry that is not a regular file was"
                if count == 1
                else f"{count:,} entries that are not regular files were"
            )
            notes.append(f"{which} left out (a link that leads nowhere, a pipe, a device): {_few(self.irregular)}")
        if self.people:
            has = "1 person has" if len(self.people) == 1 else f"{len(self.people):,} people have"
            notes.append(f"{has} no other pictures: {_few(self.people)}")
        return ". ".join(notes)

    def to_dict(self) -> dict[str, object]:
        """The attributes as ``--json`` gives them."""
        return {"kinds": dict(self.kinds), "irregular": list(self.irregular), "people": list(self.people)}


@dataclass(frozen=True)
class Walk:
    """What lies below a folder.

    Attributes:
        pictures: paths of the pictures below the folder, with forward slashes, in no order.
        others: how many files of each other ending there are.
        irregular: paths of entries that are neither files nor folders.
    """

    pictures: list[str]
    others: Counter[str]
    irregular: list[str]

    @property
    def left_out(self) -> LeftOut:
        """What may well be pictures of the others."""
        return LeftOut.of(self.others, self.irregular)


def walk(folder: Path, above: Sequence[str] = ()) -> Walk:
    """Look for pictures below a folder, at any depth.

    Hidden files and folders are passed over. Links are followed, but to a folder that they lie in.

    Args:
        folder: where to look.
        above: real paths of further folders that links are not followed to.

    Raises:
        DataError: naming a folder that cannot be read, or to which links lead in too many ways.
    """
    pictures: list[str] = []
    irregular: list[str] = []
    others: Counter[str] = Counter()
    visits: Counter[tuple[int, int]] = Counter()
    # (folder, its path below the first one, the real folders above it, whether a link led here)
    waiting: list[tuple[str, str, tuple[str, ...], bool]] = [(os.fspath(folder), "", tuple(above), False)]
    while waiting:
        place, prefix, outside, linked = waiting.pop()
        if linked:
            _require_few_visits(place, visits)
        inside = (*outside, os.path.realpath(place))
        for entry in entries(place):
            kind = kind_of_entry(entry)
            if kind == "folder":
                if os.path.realpath(entry.path) not in inside:
                    waiting.append((entry.path, f"{prefix}{entry.name}/", inside, linked or entry.is_symlink()))
            elif kind == "other":
                irregular.append(prefix + entry.name)
            elif is_picture(entry.name):
                pictures.append(prefix + entry.name)
            else:
                others[ending_of(entry.name)] += 1
    return Walk(pictures, others, irregular)


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden, in no order; raises DataError if the folder cannot be read."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def kind_of_entry(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """What an entry is, or what a link leads to; a link that leads nowhere, a pipe and a device are "other".

    Raises:
        DataError: if that cannot be found out. What is called like a picture is a file then: reading it says why not.
    """
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError as error:
        if error.errno != errno.EACCES:  # a link that leads to itself
            return "other"
        if is_picture(entry.name):
            return "file"
        raise DataError(f"{entry.path}: cannot be read: {error.strerror}") from error


def is_picture(name: str) -> bool:
    """Whether a file of this name is read as a picture."""
    return name.lower().endswith(PICTURE_TYPES)


def ending_of(name: str) -> str:
    """A file's ending in small letters; the whole name if there is none."""
    return os.path.splitext(name)[1].lower() or name.rpartition("/")[2]  # noqa: PTH122 - faster than Path


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_FEW])) + (", ..." if len(names) > _FEW else "")


def counted(kinds: Mapping[str, int]) -> str:
    """The most frequent kinds with their counts: "2 .heic, 1 .tif"."""
    shown = Counter(kinds).most_common(_FEW)
    return ", ".join(f"{count:,} {kind}" for kind, count in shown) + (", ..." if len(kinds) > _FEW else "")


def but(others: object) -> str:
    """What goes behind "no pictures" where something else is there."""
    return f", but {others}" if others else ""


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key under which digits count as numbers; the name itself decides between "1" and "01"."""
    parts: list[str | tuple[int, str]] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [_number(digits) for digits in parts[1::2] if isinstance(digits, str)]
    return parts, name


def _number(digits: str) -> tuple[int, str]:
    """Orders as the number does; int() refuses thousands of digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def by_identity(path: str) -> tuple[object, object]:
    """Sort key that puts paths ``IDENTITY/PICTURE`` into the order of an image folder."""
    first, _, rest = path.partition("/")
    return natural(first), natural(rest)


def _require_few_visits(folder: str, visits: Counter[tuple[int, int]]) -> None:
    """Folders with links to one another can be walked in more ways than there is time for."""
    try:
        found = os.stat(folder)  # noqa: PTH116 - folder is text
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    visits[found.st_dev, found.st_ino] += 1
    if visits[found.st_dev, found.st_ino] > _MOST_VISITS:
        raise DataError(f"{folder}: links lead to this folder in more than {_MOST_VISITS} ways; delete some of them")
