"""Table of the records of a .rec file, divided into pictures and identity records.

Pictures are never lost silently: a set is rejected unless every record is a picture or an identity record announced by
the header.
"""

from __future__ import annotations

import struct
from array import array

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vplface.data.formats.random_access import RandomAccess, ReadAhead
from vplface.data.formats.recordio_frames import (
    FRAME,
    HEADER,
    LABELS,
    LONGEST,
    MAGIC,
    BrokenRecordError,
    is_label,
    parts_at,
    payload_at,
    unpack,
)
from vplface.data.formats.recordio_tables import line_of, read_index
from vplface.errors import DataError
from vplface.progress import progress
from vplface.reading import is_file

_BEGIN = struct.Struct("<II8xq")
"""Frame of a record, and the id in its header."""

_CHECKED = 2**12
"""Number of evenly spread records whose offsets are checked against the .idx when a set is opened."""

_CHUNK = 2**18
"""Number of records that are processed at once."""

_JOINED = "if several .rec files were joined, give each by itself"


class Heads:
    """The first bytes of some records.

    Attributes:
        plain: whether a record is one whole part, long enough for its labels; the other fields hold only for these.
        ends: where a plain record ends.
        bare: whether a plain record holds no picture.
        flag: how many labels follow the header.
        id: the record's id.
        labels: the two numbers behind the header.
        numbers: the first label; −1 if it is not a whole number that float32 holds exactly, or not known.
    """

    def __init__(self, file: RandomAccess, offsets: Int64[np.ndarray, " n"]) -> None:
        words = file.words_at(offsets, 10)
        length, self.flag = words[:, 1].astype(np.int64), words[:, 2].astype(np.int64)
        room = np.minimum(LONGEST, file.size - offsets - FRAME.size)
        least = HEADER.size + 4 * self.flag
        self.begins: Bool[np.ndarray, " n"] = words[:, 0] == MAGIC
        self.plain: Bool[np.ndarray, " n"] = self.begins & (length <= room) & (length >= least)
        self.ends: Int64[np.ndarray, " n"] = (offsets + FRAME.size + length + 3) & ~3
        self.bare: Bool[np.ndarray, " n"] = self.plain & (length == least)
        self.id: Int64[np.ndarray, " n"] = words[:, 4].astype(np.int64) | words[:, 5].astype(np.int64) << 32
        self.labels: Float32[np.ndarray, "n 2"] = words[:, 8:10].copy().view("<f4")
        first = np.where(self.flag > 0, words[:, 8], words[:, 3]).view("<f4")
        self.numbers: Int64[np.ndarray, " n"] = np.where(self.plain, whole(first), -1)

    def are_of_two_numbers(self) -> Bool[np.ndarray, " n"]:
        """Which look like a header or an identity record: two keys in order, and no picture."""
        first, second = self.labels.T
        two: Bool[np.ndarray, " n"] = self.bare & (self.flag == 2) & (first >= 1) & (second >= first)
        return two


class Records:
    """The records of a .rec file in the order of their keys.

    Attributes:
        file: the .rec file.
        keys: of all records.
        offsets: of all records.
        pictures: slice of the pictures.
        identities: slice of the identity records.
    """

    def __init__(self, file: RandomAccess) -> None:
        """Find the records, by the .idx if there is one.

        Raises:
            DataError: a file is damaged, the .idx and the .rec do not agree, or there are records that the header does
                not announce.
            OSError: the file cannot be read.
        """
        self.file, self.path = file, file.path
        self._index = self.path.with_suffix(".idx")
        self._indexed = is_file(self._index)
        if self._indexed:
            self.keys, self.offsets = read_index(self._index, 2**20 + 8 * file.size)
            self._require_offsets()
        else:
            self.offsets, ids = self._walk()
            distinct = (ids >= 0).all() and len(np.unique(ids)) == len(ids)
            self.keys = ids if distinct else np.arange(len(ids))
        self._sort()
        self._following = self._find_following()
        if self._indexed:
            self.visit(np.unique(np.linspace(0, len(self.keys) - 1, min(len(self.keys), _CHECKED)).astype(np.int64)))
        self.pictures, self.identities = self._divide()

    def visit(self, positions: Int64[np.ndarray, " n"]) -> Heads:
        """Read the heads of some records; raises DataError unless each ends where the next in the file begins."""
        heads = Heads(self.file, self.offsets[positions])
        if self._indexed:
            following = self._following[positions]
            ends = np.where(heads.plain, heads.ends, following)
            for other in np.flatnonzero(heads.begins & ~heads.plain).tolist():
                ends[other] = self._end_of(int(self.offsets[positions[other]])) or following[other]
            wrong = np.flatnonzero(ends != following)
            if len(wrong):
                self._require_neighbours(positions[wrong], ends[wrong], following[wrong])
        return heads

    def numbers(self) -> Int64[np.ndarray, " n"]:
        """The first label of each picture, read from every record; −1 if it is not a valid label.

        Raises:
            DataError: a header or an identity record stands among the pictures.
            OSError: the file cannot be read.
        """
        positions = np.arange(self.pictures.start, self.pictures.stop)
        numbers = [self._numbers_of(positions[at : at + _CHUNK]) for at in range(0, len(positions), _CHUNK)]
        return np.concatenate([positions[:0], *numbers])

    def _numbers_of(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        heads = self.visit(positions)
        strange = heads.are_of_two_numbers()
        if (heads.id[heads.plain] != 0).any():
            strange |= heads.bare & (heads.flag <= 1) & (heads.id == 0)
        if len(found := np.flatnonzero(strange)):
            key, offset = self.keys[positions[found[0]]], self.offsets[positions[found[0]]]
            raise DataError(
                f"{self.path}, record {key} at offset {offset}: holds no picture but numbers, as a header or an "
                f"identity record does, but is among the pictures, as are {len(found) - 1} more; {_JOINED}, or fix "
                "the header"
            )
        for other in np.flatnonzero(~heads.plain).tolist():
            labels = self._labels_and_picture(int(self.offsets[positions[other]]))[0]
            heads.numbers[other] = int(labels[0]) if labels and is_label(labels[0]) else -1
        return heads.numbers

    def identity_heads(self) -> Heads:
        """Heads of the identity records.

        Raises:
            DataError: one of them holds a picture.
            OSError: the file cannot be read.
        """
        positions = np.arange(self.identities.start, self.identities.stop)
        heads = self.visit(positions)
        candidates = np.flatnonzero(~heads.bare)
        pictures = [k for k in candidates.tolist() if self._labels_and_picture(int(self.offsets[positions[k]]))[1]]
        if pictures:
            key, offset = self.keys[positions[pictures[0]]], self.offsets[positions[pictures[0]]]
            raise DataError(
                f"{self.path}, record {key} at offset {offset}: holds a picture, but the header says that the pictures "
                f"end before it; {len(pictures)} pictures would be lost: fix the header (record 0), or {_JOINED}"
            )
        return heads

    def _labels_and_picture(self, offset: int) -> tuple[tuple[float, ...], bytes]:
        """Labels and picture of one record; both empty if it is damaged."""
        try:
            return unpack(payload_at(self.file, offset))
        except BrokenRecordError:
            return (), b""

    def _require_offsets(self) -> None:
        """Check that each record of the .idx begins at a possible offset, and that the last ends the file."""
        size, keys, offsets = self.file.size, self.keys, self.offsets
        wrong = np.flatnonzero((offsets % 4 != 0) | (offsets > size - FRAME.size))
        if len(wrong):
            key, offset = int(keys[wrong[0]]), int(offsets[wrong[0]])
            says = (
                "which is not a multiple of 4"
                if offset % 4
                else f"but {self.path.name} ends at {size}: it is cut short"
            )
            raise self._wrong_line(key, offset, f"{says}, or the .idx belongs to another file")
        last = int(offsets.argmax())
        where = f"{self.path}, record {keys[last]} at offset {offsets[last]}"
        try:
            _, end = parts_at(self.file, int(offsets[last]))
        except BrokenRecordError as error:
            raise DataError(
                f"{where}: {error}; it is the last record in {self._index.name}, and ends the file"
            ) from None
        if end != size:
            raise DataError(
                f"{where}: is the last in {self._index.name} and ends at {end}, but the file has {size} bytes; remove "
                f"{self._index.name} if it is incomplete: the .rec file is then scanned"
            )

    def _require_neighbours(
        self, positions: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"], following: Int64[np.ndarray, " n"]
    ) -> None:
        """The error for a record that does not end at the next: a wrong or incomplete .idx, or a damaged record."""
        unlisted, first = 0, 0
        for end, begin in zip(ends.tolist(), following.tolist(), strict=True):
            is_there = begin == self.file.size or self._end_of(begin) is not None
            if not is_there and (end == self.file.size or self._end_of(end) is not None):
                key = int(self.keys[np.flatnonzero(self.offsets == begin)[0]])
                raise self._wrong_line(key, begin, f"but no record begins there; one does at {end}")
            if end < begin and (count := self._count_between(end, begin)):
                unlisted, first = unlisted + count, first or end
        if unlisted:
            raise DataError(
                f"{self._index}: {unlisted} records of {self.path.name} are not in it, the first at offset {first}; "
                f"remove {self._index.name}: the .rec file is then scanned"
            )

    def _wrong_line(self, key: int, offset: int, says: str) -> DataError:
        line = line_of(self._index, key)
        return DataError(f"{self._index}, line {line}: record {key} should begin at offset {offset}, {says}")

    def _end_of(self, offset: int) -> int | None:
        """End of the record at an offset; None if none begins there."""
        try:
            return parts_at(self.file, offset)[1]
        except BrokenRecordError:
            return None

    def _count_between(self, begin: int, end: int) -> int:
        """How many records fill the bytes between; 0 if they are not filled by records."""
        count, ahead = 0, ReadAhead(self.file)
        while begin < end:
            try:
                _, begin = parts_at(ahead, begin)
            except BrokenRecordError:
                return 0
            count += 1
        return count if begin == end else 0

    def _walk(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Offsets and ids of all records, found by scanning the file; the ids are the keys of a lost .idx."""
        offsets, ids, size = array("q"), array("q"), self.file.size
        start, block = 0, b""
        with progress(f"scanning {self.path.name} (no .idx file)", size) as advance:
            offset = reported = 0
            while offset < size:
                at = offset - start
                if at + _BEGIN.size > len(block):
                    start, at, block = offset, 0, self.file.read(offset, _CHUNK)
                    advance(offset - reported)
                    reported = offset
                offsets.append(offset)
                begin = block[at : at + _BEGIN.size].ljust(_BEGIN.size, b"\xff")  # no id where the file ends before it
                magic, length, number = _BEGIN.unpack(begin)
                ids.append(number)
                end = (offset + FRAME.size + length + 3) & ~3
                if magic == MAGIC and length <= LONGEST and end <= size:  # of one part, as nearly all are
                    offset = end
                    continue
                try:
                    _, offset = parts_at(self.file, offset)
                except BrokenRecordError as error:
                    raise DataError(
                        f"{self.path}, record number {len(offsets) - 1} at offset {offset}: {error}; without an .idx "
                        "the records behind it cannot be found"
                    ) from None
        return np.array(offsets, np.int64), np.array(ids, np.int64)

    def _sort(self) -> None:
        if (np.diff(self.keys) > 0).all():
            return
        order = np.argsort(self.keys, kind="stable")
        self.keys, self.offsets = self.keys[order], self.offsets[order]
        if len(same := np.flatnonzero(np.diff(self.keys) == 0)):
            key = int(self.keys[same[0]])
            raise DataError(f"{self._index}, line {line_of(self._index, key)}: the key {key} occurs more than once")

    def _find_following(self) -> Int64[np.ndarray, " n"]:
        """Offset of the next record in the file for each record; for the last, the end of the file."""
        if (np.diff(self.offsets) > 0).all():
            return np.append(self.offsets[1:], self.file.size)
        order = np.argsort(self.offsets, kind="stable")
        if len(same := np.flatnonzero(np.diff(self.offsets[order]) == 0)):
            one, two = self.keys[order[same[0] : same[0] + 2]].tolist()
            raise self._wrong_line(two, int(self.offsets[order[same[0]]]), f"as record {one} is")
        following = np.empty_like(self.offsets)
        following[order] = np.append(self.offsets[order][1:], self.file.size)
        return following

    def _divide(self) -> tuple[slice, slice]:
        """Slices of the pictures and of the identity records."""
        keys, count = self.keys, len(self.keys)
        if keys[0] != 0:
            return slice(0, count), slice(count, count)
        where = f"{self.path}, record 0 at offset {self.offsets[0]}"
        try:
            labels, picture = unpack(payload_at(self.file, int(self.offsets[0])))
        except BrokenRecordError as error:
            raise DataError(
                f"{where}: {error}; it may be the header of the set, which distinguishes pictures from identities"
            ) from None
        if picture:
            return slice(0, count), slice(count, count)
        if len(labels) == 1:  # it says only how many there are
            boundary = count
            while boundary > 1 and self._is_identity(boundary - 1):
                boundary -= 1
            return slice(1, boundary), slice(boundary, count)
        first, stop = labels[:2]
        last = float(keys[-1]) + 1
        rounding = last * 2.0**-23 if stop >= LABELS else 0
        if not (1 <= first <= stop <= last + rounding and first.is_integer() and stop.is_integer()):
            raise DataError(
                f"{where}: says that pictures have the keys 1 to {first - 1:.0f} and identities those up to "
                f"{stop - 1:.0f}, but the last key is {keys[-1]}"
            )
        boundary, end = np.searchsorted(keys, [int(first), int(stop)]).tolist()
        if stop < last - rounding:
            raise DataError(
                f"{where}: announces the records up to {stop - 1:.0f}, but {count - end} more are there, the first at "
                f"offset {self.offsets[end]}; fix the header so that it announces all, or {_JOINED}"
            )
        if first >= LABELS:  # float32 has rounded it; identity records hold no picture
            while boundary > 1 and self._is_bare(boundary - 1):
                boundary -= 1
            while boundary < count and not self._is_bare(boundary):
                boundary += 1
            return slice(1, boundary), slice(boundary, count)
        missing = round(first) - boundary
        if missing or (stop < LABELS and count != round(stop)):
            raise DataError(
                f"{where}: announces {stop - 1:.0f} records, and {count - 1} are there: "
                f"{missing or round(stop) - count} are missing; get the files again"
            )
        return slice(1, boundary), slice(boundary, count)

    def _is_bare(self, position: int) -> bool:
        labels, picture = self._labels_and_picture(int(self.offsets[position]))
        return bool(labels) and not picture

    def _is_identity(self, position: int) -> bool:
        return bool(Heads(self.file, self.offsets[position : position + 1]).are_of_two_numbers()[0])


def whole(values: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Whole numbers from 0 to what float32 holds exactly; −1 for all else."""
    fits = (values >= 0) & (values < LABELS)
    numbers = np.where(fits, values, np.float32(-1)).astype(np.int64)
    numbers[numbers != np.where(fits, values, np.float32(-1))] = -1
    return numbers
