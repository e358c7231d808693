"""Reader and writer of InsightFace's RecordIO: pictures in a .rec file, offsets in an .idx, optional names in a .lst.

In InsightFace's sets the record of key 0 holds no picture but two labels (a, b): the keys 1 ... a − 1 are pictures, and
a ... b − 1 are identity records, also without a picture, whose two labels (c, d) mean that the keys c ... d − 1 are one
identity. :mod:`vplface.data.formats.recordio_frames` describes the bytes of a record.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from jaxtyping import Float32, Int64

from vplface.data.encoded import suffix_of
from vplface.data.formats.random_access import RandomAccess, ReadAhead, Stamp
from vplface.data.formats.recordio_frames import (
    HEADER,
    LABELS,
    LONGEST,
    BrokenRecordError,
    frame,
    is_label,
    pack,
    parts_at,
    payload_at,
    unpack,
)
from vplface.data.formats.recordio_records import Records, whole
from vplface.data.formats.recordio_tables import NameList
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError
from vplface.files import replacing
from vplface.progress import progress
from vplface.reading import is_file, is_folder, kind_of


class RecordIO(StoredPictures):
    """The pictures of a .rec file, in the order of their keys.

    A picture's identity is its first label. Identities are in the order of their labels, which need not be contiguous.
    Their names, and those of the pictures, come from a .lst of MXNet's form beside the .rec (``KEY <tab> LABEL <tab>
    IDENTITY/PICTURE``); without one an identity is called by its label, "0000042", and a picture by its key.

    With an .idx, labels are read from the identity records and one picture of each; records are visited one by one
    only if those are missing or do not cover all pictures. Without an .idx the whole file is scanned.
    """

    def __init__(self, path: Path | str, stamp: Stamp | None = None) -> None:
        """Open a .rec file, or the one in a folder.

        Args:
            path: the file or the folder.
            stamp: required stamp of the file; None accepts any.

        Raises:
            DataError: the file is missing, truncated, inconsistent with its .idx or .lst, or holds records that its
                header does not announce. Damage inside a picture's record is reported when the picture is read.
        """
        self.path = _record_file(Path(path))
        self._file = RandomAccess(self.path, stamp)
        if not self._file.size:
            raise DataError(f"{self.path}: is empty")
        try:
            records = Records(self._file)
            self._keys, self._offsets = records.keys[records.pictures], records.offsets[records.pictures]
            if len(self._keys) == 0:
                raise DataError(f"{self.path}: holds no pictures")
            numbers = self._numbers_of_ranges(records)
            if numbers is None:
                numbers = records.numbers()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        self._numbers, self._labels = _positions(numbers)
        if len(self._numbers) == 0:
            raise DataError(f"{self.path}: no picture has a label; {self._why_not(0)}")
        self._names, self._places = self._name_list()
        self._identities = self._identity_names(numbers)

    def __reduce__(self) -> tuple[type[RecordIO], tuple[Path, Stamp]]:
        return RecordIO, (self.path, self._file.stamp)  # a worker opens the file again, and it must be the same

    def name(self, index: int) -> str:
        """Name in the .lst, else IDENTITY/KEY with the suffix of the picture's format."""
        self._require(index)
        if self._names is not None:
            return self._names.name(int(self._places[index]))
        try:
            suffix = suffix_of(self.encoded(index))
        except UnreadablePictureError:
            suffix = ".jpg"
        return f"{self._identities[self._labels[index]]}/{self._keys[index]:08d}{suffix}"

    def where(self, index: int) -> str:
        """The file, and the key and offset of the picture's record."""
        self._require(index)
        return f"{self.path}, record {self._keys[index]} at offset {self._offsets[index]}"

    def encoded(self, index: int) -> bytes:
        """The picture's file; raises UnreadablePictureError if its record is damaged or of another identity."""
        labels, picture = self._unpacked(index)
        if labels[0] != self._numbers.item(self._labels.item(index)):
            raise self._unreadable(index, self._why_not(index))
        return picture

    def all_labels(self, index: int) -> Float32[np.ndarray, " labels"]:
        """All labels of a picture's record; the first is its identity.

        Raises:
            UnreadablePictureError: the record is damaged.
        """
        return np.array(self._unpacked(index)[0], np.float32)

    def _unpacked(self, index: int) -> tuple[tuple[float, ...], bytes]:
        self._require(index)
        try:
            return unpack(payload_at(self._file, self._offsets.item(index)))
        except BrokenRecordError as error:
            raise self._unreadable(index, str(error)) from None
        except OSError as error:
            raise self._unreadable(index, error.strerror or str(error)) from error

    def _unreadable(self, index: int, reason: str) -> UnreadablePictureError:
        """Error for a picture: that the file has changed, else the reason."""
        try:
            self._file.require_unchanged()
        except OSError as error:
            reason = error.strerror or str(error)
        return UnreadablePictureError(self.where(index), reason)

    def _why_not(self, index: int) -> str:
        """Explanation of a wrong label."""
        label = float(self.all_labels(index)[0])
        if is_label(label):
            return f"its label is {label:.0f}, but the identity record says {self._numbers[self._labels[index]]}"
        return f"its label is {label}, not a whole number from 0 to {LABELS - 1:,}"

    def _numbers_of_ranges(self, records: Records) -> Int64[np.ndarray, " n"] | None:
        """The label of each picture by the identity records; None if they do not cover the pictures."""
        heads = records.identity_heads()
        begin, end = (whole(heads.labels[:, k]) for k in range(2))
        filled = end > begin
        begin, end = begin[filled], end[filled]
        first, last = int(self._keys[0]), int(self._keys[-1])
        contiguous = len(self._keys) == last - first + 1
        two_labels = (heads.bare & (heads.flag == 2)).all()
        if not (two_labels and contiguous and len(begin) and begin[0] == first and end[-1] == last + 1):
            return None
        if (begin[1:] != end[:-1]).any():
            return None
        numbers = records.visit(records.pictures.start + begin - first).numbers
        return None if (numbers < 0).any() else np.repeat(numbers, end - begin)

    def _name_list(self) -> tuple[NameList | None, Int64[np.ndarray, " n"]]:
        """List of names, and the position of each picture in it."""
        path = self.path.with_suffix(".lst")
        if not is_file(path) or not NameList.names_pictures(path):
            return None, self._keys[:0]
        names = NameList(path)
        if np.array_equal(names.keys, self._keys):
            return names, np.arange(len(self))
        places = np.searchsorted(names.keys, self._keys)
        missing = np.flatnonzero(names.keys[np.minimum(places, len(names.keys) - 1)] != self._keys)
        if len(missing):
            raise DataError(f"{path}: has no line for {len(missing)} records, such as {self._keys[missing[0]]}")
        return names, places

    def _identity_names(self, numbers: Int64[np.ndarray, " n"]) -> list[str]:
        if self._names is not None:
            labelled = np.flatnonzero(numbers >= 0)[::-1]
            first = np.zeros(len(self._numbers), np.int64)
            first[self._labels[labelled]] = labelled
            named = [self.name(index).partition("/") for index in first.tolist()]
            if all(slash for _, slash, _ in named) and len({name for name, _, _ in named}) == len(named):
                return [name for name, _, _ in named]
        return [f"{number:07d}" for number in self._numbers.tolist()]


def _positions(numbers: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " n"]]:
    """The distinct labels in ascending order, and the position of each picture's; of a picture without one, 0."""
    present = np.zeros(int(numbers.max()) + 1, bool)
    present[numbers[numbers >= 0]] = True
    position = np.cumsum(present) - 1
    return np.flatnonzero(present), np.where(numbers >= 0, position[numbers] if len(position) else 0, 0)


def _record_file(path: Path) -> Path:
    if is_folder(path):
        files = sorted(path.glob("*.rec"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files[:5]) or "none"
            raise DataError(f"{path}: expected one .rec file in this folder, found {found}; give one")
        return files[0]
    return path


class RecordIOWriter:
    """Writes a .rec file in InsightFace's layout, with .idx, .lst and property; a ``PictureWriter``.

    Keys number the pictures from 1 in the order of writing. If the pictures of each identity are contiguous, identity
    records follow them. Until the set is complete, the .rec and the .lst have hidden names ending in ".part", and an
    interrupted writer resumes after the last picture that is in both.
    """

    def __init__(self, path: Path, identities: Sequence[str]) -> None:
        """Prepare to write, or to resume an interrupted writer.

        Args:
            path: the .rec file, or a folder in which it is called train.rec.
            identities: name of each label.

        Raises:
            DataError: an identity's name cannot be written in a .lst, or existing files have other identities or are
                not part of a .rec.
        """
        self.path = path if path.suffix.lower() == ".rec" else path / "train.rec"
        for name in identities:
            if "/" in name or not _fits_in_list(name) or not name:
                raise DataError(
                    f"{self.path}: an identity cannot be called {name!r}: it holds '/', a tab or a new line"
                )
        if len(identities) > LABELS:
            raise DataError(f"{self.path}: {len(identities):,} identities; labels are float32, exact below {LABELS:,}")
        self._identities = identities
        self._part, self._lines = (self.path.with_name(f".{self.path.stem}{kind}.part") for kind in (".rec", ".lst"))
        self._offsets, self._labels = array("q"), array("q")
        self._end, self._end_of_lines = 0, 0
        self._records: BinaryIO
        self._list: BinaryIO
        self._complete = kind_of(self.path) is not None
        if self._complete:
            with self._writing():
                self._lines.unlink(missing_ok=True)
            self._written_before = len(RecordIO(self.path))
        elif is_file(self._part) and is_file(self._lines):
            self._find_what_is_complete()

    @property
    def written(self) -> int:
        """Number of complete pictures, including those of an interrupted writer."""
        return self._written_before if self._complete else len(self._labels)

    def __enter__(self) -> Self:
        if self._complete:
            return self
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._records, self._list = (_opened(path) for path in (self._part, self._lines))
            self._records.truncate(self._end)
            self._records.seek(self._end)
            self._list.truncate(self._end_of_lines)
            self._list.seek(self._end_of_lines)
            if not self._end:
                self._append(pack(0, (0.0, 0.0), b""))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._complete:
            return
        with self._writing():
            try:
                if kind is None:
                    self._finish()
            finally:
                self._records.close()
                self._list.close()

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Append one picture.

        Raises:
            DataError: if it cannot be written, if a .lst cannot hold its name, or if the set is complete already.
            IndexError: if the label is not a position among the identities.
        """
        if self._complete:
            raise DataError(f"{self.path}: is complete already; choose another path, or delete it first")
        if not 0 <= label < len(self._identities):
            raise IndexError(f"label must lie in 0..{len(self._identities) - 1}, got {label}")
        key = len(self._labels) + 1
        if key + len(self._identities) >= LABELS:
            raise DataError(f"{self.path}: keys are float32, exact below {LABELS:,}; write more pictures as tar shards")
        if not _fits_in_list(name):
            raise DataError(f"{self.path}: a .lst cannot hold the name {name!r}: it holds a tab or a new line")
        if len(encoded) > LONGEST - HEADER.size:
            raise DataError(f"{self.path}: {name} has {len(encoded):,} bytes, the limit of a record is {LONGEST:,}")
        identity = self._identities[label]
        if not name.startswith(f"{identity}/"):
            name = f"{identity}/{name}"
        with self._writing():
            self._append(pack(key, (float(label),), encoded))
            self._list.write(f"{key}\t{label}\t{name}\n".encode("utf-8", "surrogateescape"))
        self._labels.append(label)

    def _append(self, payload: bytes) -> None:
        record = frame(payload)
        self._records.write(record)
        self._offsets.append(self._end)
        self._end += len(record)

    def _finish(self) -> None:
        if not self._labels:
            raise DataError(f"{self.path}: there are no pictures to write")
        stop = len(self._labels) + 1
        for begin, end in self._ranges():
            self._append(pack(len(self._offsets), (float(begin), float(end)), b""))
        self._records.seek(0)
        self._records.write(frame(pack(0, (float(stop), float(len(self._offsets))), b"")))
        for file in (self._records, self._list):
            file.flush()
            os.fsync(file.fileno())
        with replacing(self.path.with_suffix(".idx")) as index, index.open("w", encoding="ascii") as lines:
            lines.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(self._offsets))
        with replacing(self.path.with_suffix(".lst")) as names:
            shutil.copyfile(self._lines, names)
        with replacing(self.path.with_name("property")) as properties:
            properties.write_text(f"{len(self._identities)},112,112\n", encoding="ascii")
        self._part.replace(self.path)
        self._lines.unlink()

    def _ranges(self) -> list[tuple[int, int]]:
        """First key of each identity and the one after its last; none unless its pictures are contiguous."""
        labels = np.frombuffer(self._labels, np.int64)
        begin = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1])
        if len(np.unique(labels[begin])) < len(begin):
            return []
        return list(zip((begin + 1).tolist(), [*(begin[1:] + 1).tolist(), len(labels) + 1], strict=True))

    def _find_what_is_complete(self) -> None:
        """Complete records and lines, up to the first that either file lacks."""
        data = ReadAhead(RandomAccess(self._part))
        with self._writing(), self._lines.open("rb") as lines:
            try:
                _, self._end = parts_at(data, 0)
            except BrokenRecordError:
                return
            self._offsets.append(0)
            with progress(f"scanning {self._part.name}", data.size, self._end) as advance:
                for key, line in enumerate(lines, 1):
                    try:
                        [(start, _), *_], end = parts_at(data, self._end)
                    except BrokenRecordError:
                        return
                    if not line.endswith(b"\n"):
                        return
                    self._labels.append(self._label_of(line, key, data.read(start, HEADER.size)))
                    self._offsets.append(self._end)
                    self._end_of_lines += len(line)
                    advance(end - self._end)
                    self._end = end

    def _label_of(self, line: bytes, key: int, header: bytes) -> int:
        """The label of a picture that was written before, if it was written with the same identities."""
        fields = line.split(b"\t")
        if len(fields) == 3 and fields[1].isdigit() and int(fields[1]) < len(self._identities):
            label = int(fields[1])
            same = header == HEADER.pack(0, label, key, 0) and fields[0] == b"%d" % key
            if same and fields[2].startswith(f"{self._identities[label]}/".encode("utf-8", "surrogateescape")):
                return label
        raise DataError(
            f"{self._lines}, line {key}: belongs to another set; the interrupted conversion had other identities. "
            f"Choose another path, or delete {self._lines.name} and {self._part.name} to start over"
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; complete pictures are kept, and writing there "
                "again resumes"
            ) from error


def _opened(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")


def _fits_in_list(name: str) -> bool:
    return not any(mark in name for mark in "\t\n\r")
