"""Search for picture files below a folder, with a record of files that were left out."""

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
"""Suffixes of supported picture files."""

_UNSUPPORTED_TYPES = re.compile(
    r"\.(?:heic|heif|hif|avif|avifs|tif|tiff|gif|jxl|jp2|j2k|jpf|jpx|jpm|j2c|jpc|jxr|wdp|hdp|jfif|jif|jpe|mpo|jps"
    r"|raw|dng|cr2|cr3|crw|nef|nrw|arw|srf|sr2|orf|rw2|rwl|raf|pef|srw|x3f|3fr|fff|iiq|mrw|erf|kdc|dcr|mef|mos"
    r"|psd|xcf|eps|svg|tga|ppm|pgm|pbm|pnm|pam|pfm|exr|hdr|dds|ico|apng|bpg|qoi|flif|pcx|sgi|ras)"
)
"""Suffixes of unsupported picture files."""
_MAX_VISITS = 100
_MAX_LISTED = 5


@dataclass(frozen=True)
class LeftOut:
    """Possible pictures that a set leaves out; false if there are none.

    Attributes:
        kinds: number of files in unsupported formats, by suffix.
        irregular: entries that are neither files nor folders: broken links, pipes, devices.
        people: identities without other pictures.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    irregular: Sequence[str] = ()
    people: Sequence[str] = ()

    @classmethod
    def of(cls, endings: Mapping[str, int], irregular: Sequence[str] = (), people: Sequence[str] = ()) -> LeftOut:
        """Select the unsupported picture formats from file counts by suffix, see :func:`ending_of`."""
        kinds = {kind: count for kind, count in Counter(endings).most_common() if _UNSUPPORTED_TYPES.fullmatch(kind)}
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
            notes.append(f"{which} left out: {format_counts(self.kinds)}; convert {them} to JPEG")
        if self.irregular:
            count = len(self.irregular)
            which = (
                "1 entry that is not a regular file was"
                if count == 1
                else f"{count:,} entries that are not regular files were"
            )
            notes.append(f"{which} left out (broken link, pipe or device): {_first_names(self.irregular)}")
        if self.people:
            has = "1 person has" if len(self.people) == 1 else f"{len(self.people):,} people have"
            notes.append(f"{has} no other pictures: {_first_names(self.people)}")
        return ". ".join(notes)

    def to_dict(self) -> dict[str, object]:
        """Attributes as in the output of ``--json``."""
        return {"kinds": dict(self.kinds), "irregular": list(self.irregular), "people": list(self.people)}


@dataclass(frozen=True)
class FolderScan:
    """Contents of a folder.

    Attributes:
        pictures: relative paths of the pictures, with forward slashes, unordered.
        others: number of other files by suffix.
        irregular: relative paths of entries that are neither files nor folders.
    """

    pictures: list[str]
    others: Counter[str]
    irregular: list[str]

    @property
    def left_out(self) -> LeftOut:
        """Possible pictures among the other files."""
        return LeftOut.of(self.others, self.irregular)


def find_pictures(folder: Path, above: Sequence[str] = ()) -> FolderScan:
    """Find pictures below a folder, at any depth.

    Hidden files and folders are skipped. Links are followed, except to a folder that contains them.

    Args:
        folder: folder to search.
        above: real paths of further folders to which links are not followed.

    Raises:
        DataError: a folder cannot be read, or links lead to it in too many ways.
    """
    pictures: list[str] = []
    irregular: list[str] = []
    others: Counter[str] = Counter()
    visits: Counter[tuple[int, int]] = Counter()
    # (folder, its relative path, its real path, the real paths of its ancestors, whether a link led here)
    pending: list[tuple[str, str, str, tuple[str, ...], bool]] = [
        (os.fspath(folder), "", os.path.realpath(folder), tuple(above), False)
    ]
    while pending:
        directory, prefix, real, ancestors, linked = pending.pop()
        if linked:
            _check_visits(directory, visits)
        inside = (*ancestors, real)
        for entry in entries(directory):
            kind = kind_of_entry(entry)
            if kind == "folder":
                link = entry.is_symlink()
                # Only for links: realpath makes a system call for each folder above.
                below = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)  # noqa: PTH118
                if below not in inside:
                    pending.append((entry.path, f"{prefix}{entry.name}/", below, inside, linked or link))
            elif kind == "other":
                irregular.append(prefix + entry.name)
            elif is_picture(entry.name):
                pictures.append(prefix + entry.name)
            else:
                others[ending_of(entry.name)] += 1
    return FolderScan(pictures, others, irregular)


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Entries of a folder that are not hidden, unordered; raises DataError if the folder cannot be read."""
    try:
        with os.scandir(folder) as status:
            return [entry for entry in status if not entry.name.startswith(".")]
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def kind_of_entry(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """Kind of an entry or of its link target; broken links, pipes and devices are "other".

    Raises:
        DataError: the kind cannot be determined; an entry named like a picture is a file then, so that reading it
            reports the error.
    """
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError as error:
        if error.errno != errno.EACCES:  # a link loop
            return "other"
        if is_picture(entry.name):
            return "file"
        raise DataError(f"{entry.path}: cannot be read: {error.strerror}") from error


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a supported picture."""
    return name.lower().endswith(PICTURE_TYPES)


def ending_of(name: str) -> str:
    """Suffix of a file in lower case; the whole name if there is none."""
    return os.path.splitext(name)[1].lower() or name.rpartition("/")[2]  # noqa: PTH122 - faster than Path


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_MAX_LISTED])) + (", ..." if len(names) > _MAX_LISTED else "")


def format_counts(kinds: Mapping[str, int]) -> str:
    """Most frequent kinds with their counts: "2 .heic, 1 .tif"."""
    shown = Counter(kinds).most_common(_MAX_LISTED)
    return ", ".join(f"{count:,} {kind}" for kind, count in shown) + (", ..." if len(kinds) > _MAX_LISTED else "")


def but_note(others: object) -> str:
    """Text to append to "no pictures" if there are other files."""
    return f", but {others}" if others else ""


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Natural sort key: digits compare as numbers, and ties such as "1" and "01" by name."""
    parts: list[str | tuple[int, str]] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [_number(digits) for digits in parts[1::2] if isinstance(digits, str)]
    return parts, name


def _number(digits: str) -> tuple[int, str]:
    """Key that orders digits as numbers; int() refuses thousands of digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def identity_key(path: str) -> tuple[object, object]:
    """Sort key of paths ``IDENTITY/PICTURE`` in the order of an image folder."""
    first, _, rest = path.partition("/")
    return natural_key(first), natural_key(rest)


def _check_visits(folder: str, visits: Counter[tuple[int, int]]) -> None:
    """Raise DataError if links lead to a folder in too many ways, which would take too long to search."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - folder is text
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    visits[status.st_dev, status.st_ino] += 1
    if visits[status.st_dev, status.st_ino] > _MAX_VISITS:
        raise DataError(f"{folder}: links lead to this folder in more than {_MAX_VISITS} ways; delete some of them")
