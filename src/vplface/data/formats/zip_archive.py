"""Reader of .zip files with one folder of pictures per identity, without extraction."""

from __future__ import annotations

import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vplface.data.folder_scan import PICTURE_TYPES, LeftOut, but_note, ending_of, is_picture, natural_key
from vplface.data.formats.packed_names import PackedNames
from vplface.data.formats.random_access import AsFile, RandomAccess, Stamp
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError
from vplface.reading import PICTURE_LIMIT, kind_of

LAYOUT = "expected FOLDERS/IDENTITY/PICTURE, with pictures of type " + ", ".join(PICTURE_TYPES)
MOST_BYTES = PICTURE_LIMIT
"""A picture that claims to unpack to more is treated as malicious."""

_STEP = 4096
"""Bytes unpacked at once by codecs without a bound of their own: 90 MB of bzip2 at most."""

_HEADER = 30
_UNIX = 3
_CODECS = (0, 8, 12, 14)
_OTHER_CODECS = {1: "shrink", 6: "implode", 9: "deflate64", 20: "zstd", 93: "zstd", 95: "xz", 96: "jpeg", 98: "ppmd"}
_DRIVE = re.compile("[A-Za-z]:")


class ZipArchive(StoredPictures):
    """Pictures in a .zip file; the identity of a picture is the folder that holds it, at any depth.

    Names are relative to the folders that all pictures share; backslashes, written by some Windows programs, count as
    slashes. ``split`` selects the pictures below a top-level folder. Identities and pictures are in natural order.
    Hidden files and ``__MACOSX`` are skipped; other files left out are counted.
    """

    def __init__(self, path: Path | str, split: str | None = None) -> None:
        """Read the directory of the archive; pictures are read only when asked for.

        Raises:
            DataError: if the archive is missing or damaged, holds no pictures, none that can be unpacked, pictures
                outside of folders or two different ones of one name, has no such split, or has a name that leads out
                of it.
        """
        self.path = Path(path)
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._stamp: Stamp | None = None
        if kind_of(self.path) is None:
            raise DataError(f"{self.path}: does not exist")
        found, self._left_out = self._pictures(split)
        self._require_folders(found)
        self._require_readable(found)
        parted = [name.split("/") for name in found]
        common = _common(parted)
        self._root = "".join(f"{part}/" for part in parted[0][:common])
        if stray := next((parts for parts in parted if len(parts) == common + 1), None):
            raise DataError(f"{self.path}: {'/'.join(stray)!r} is not in an identity's folder; {LAYOUT}")
        below = sorted({("/".join(parts[common:-1]), parts[-1]) for parts in parted}, key=_by_nature)
        self._identities = list(dict.fromkeys(identity for identity, _ in below))
        place = {identity: label for label, identity in enumerate(self._identities)}
        self._labels = np.array([place[identity] for identity, _ in below])
        self._members = np.array([found[f"{self._root}{identity}/{name}"] for identity, name in below], np.int64)
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
        where = self.where(index)
        archive = self._archive()
        info = archive.infolist()[self._members[index]]
        if reason := _cannot_be_unpacked(info):
            raise UnreadablePictureError(where, f"is {reason}")
        if info.file_size > MOST_BYTES:
            raise UnreadablePictureError(where, f"claims to unpack to {info.file_size:,} bytes")
        try:
            with archive.open(info) as file:
                bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                data = file.read(info.file_size) if bounded else b"".join(iter(lambda: file.read(_STEP), b""))
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "is cut short"
        except (NotImplementedError, RuntimeError) as error:
            reason = f"cannot be unpacked: {error}"
        else:
            if len(data) == info.file_size:
                return data
            reason = f"is cut short: {len(data):,} of {info.file_size:,} bytes are there"
        raise UnreadablePictureError(where, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _archive(self) -> zipfile.ZipFile:
        """The archive, opened by this process, because a lock may have been held when it was forked."""
        if self._opened is None or self._opened[0] != os.getpid():
            access = RandomAccess(self.path)
            try:
                archive = zipfile.ZipFile(AsFile(access))
            except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
                raise DataError(f"{self.path}: not a complete .zip file ({error}); copy it again") from error
            except OSError as error:
                raise DataError(f"{self.path}: {error.strerror or error}") from error
            if self._stamp is not None and access.stamp != self._stamp:
                raise DataError(
                    f"{self.path}: the file has changed since it was opened; start again when it is complete"
                )
            self._stamp = access.stamp
            self._opened = os.getpid(), archive
        return self._opened[1]

    def _pictures(self, split: str | None) -> tuple[dict[str, int], LeftOut]:
        """Position of each picture in the archive's directory, by name, and the files left out."""
        infos = self._archive().infolist()
        self._require_apart(infos)
        found: dict[str, int] = {}
        folders: set[str] = set()
        others: Counter[str] = Counter()
        irregular: list[str] = []
        of_others: dict[str, Counter[str]] = {}
        for place, info in enumerate(infos):
            name = info.filename.replace("\\", "/")
            parts = name.split("/")
            if name.endswith("/") or any((part[:1] == "." and part != "..") or part == "__MACOSX" for part in parts):
                continue
            if is_picture(name) and (parts[0] == "" or ".." in parts or _DRIVE.match(parts[0])):
                raise DataError(f"{self.path}: {info.filename!r} leads out of the archive")
            folders.add(parts[0])
            if split is not None and parts[0] != split:
                continue
            if not is_picture(name):
                others[ending_of(name)] += 1
                of_others.setdefault("/".join(parts[:-1]), Counter())[ending_of(name)] += 1
            elif info.create_system == _UNIX and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                irregular.append(name)
            else:
                before = infos[found.setdefault(name, place)]
                if (before.CRC, before.file_size) != (info.CRC, info.file_size):
                    raise DataError(f"{self.path}: holds two different files {name!r}; unpack it and give the folder")
        if split is not None and split not in folders:
            tops = ", ".join(sorted(folders, key=natural_key))
            raise DataError(f"{self.path}: no split {split!r}; the folders at the top are {tops}")
        holders = {name.rpartition("/")[0] for name in found}
        people = [
            folder for folder, endings in of_others.items() if folder and folder not in holders and LeftOut.of(endings)
        ]
        left_out = LeftOut.of(others, irregular, sorted(people, key=natural_key))
        if not found:
            raise DataError(f"{self.path}: holds no pictures{but_note(left_out)}; {LAYOUT}")
        return found, left_out

    def _require_apart(self, infos: list[zipfile.ZipInfo]) -> None:
        """Raise DataError if entries overlap, by which a small archive could unpack to any size."""
        ordered = sorted(infos, key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in ordered[1:]), self._archive().start_dir]
        for info, end in zip(ordered, ends, strict=False):
            if info.header_offset < 0 or info.header_offset + _HEADER + info.compress_size > end:
                raise DataError(
                    f"{self.path}: {info.filename!r} overlaps the entry after it; the archive is damaged or forged"
                )

    def _require_folders(self, found: dict[str, int]) -> None:
        if top := sorted((name for name in found if "/" not in name), key=natural_key):
            raise DataError(
                f"{self.path}: {top[0]!r} is not in an identity's folder; {LAYOUT}. Pictures at the top of the "
                f"archive: {len(top):,}"
            )

    def _require_readable(self, found: dict[str, int]) -> None:
        """Raise DataError if all pictures are encrypted or use an unsupported codec."""
        infos = self._archive().infolist()
        reasons = Counter(_cannot_be_unpacked(infos[place]) for place in found.values())
        if None not in reasons:
            raise DataError(f"{self.path}: every picture is {reasons.most_common(1)[0][0]}")


def _cannot_be_unpacked(info: zipfile.ZipInfo) -> str | None:
    """Reason why a file cannot be unpacked; None if it can."""
    if info.flag_bits & 0x41 or info.compress_type == 99:
        return "encrypted; unpack the archive with its password and give the folder"
    if info.compress_type not in _CODECS:
        codec = _OTHER_CODECS.get(info.compress_type, f"the method {info.compress_type}")
        return f"packed by {codec}, which is not supported; unpack the archive and give the folder"
    return None


def _common(paths: list[list[str]]) -> int:
    """Number of leading folders that all paths share, excluding the folder of a single identity."""
    first, last = min(paths), max(paths)
    shortest = min(len(path) for path in paths)
    equal = next((k for k in range(shortest - 1) if first[k] != last[k]), shortest - 1)
    return min(equal, shortest - 2) if len({tuple(path[:-1]) for path in paths}) == 1 else equal


def _by_nature(picture: tuple[str, str]) -> tuple[Any, Any]:
    identity, name = picture
    return natural_key(identity), natural_key(name)
