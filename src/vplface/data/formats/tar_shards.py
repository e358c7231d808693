"""Reader and writer of WebDataset shards, uncompressed tar files whose consecutive files of one key are a sample.

    00000012.cls     3                                                          the label
    00000012.jpg     the picture's file: jpg, jpeg, png, webp or bmp
    00000012.json    {"label": 3, "identity": "Ada", "name": "Ada/0001.jpg"}

The key of a file is its path up to the first dot after the last slash. The label is a whole number, from .cls, else
from "label" in .json, else from .txt; or without numbers it is a name, from "identity" in .json, else from .txt. If
there are both, "identity" names the number. "name" is the picture's name, by default its path in the tar.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from jaxtyping import Int32, Int64

from vplface.console import say
from vplface.data.encoded import type_of
from vplface.data.formats.packed_names import PackedNames
from vplface.data.formats.random_access import Stamp, stamp_of
from vplface.data.formats.shard_names import find_shards
from vplface.data.formats.tar import Member, members, text
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError, import_extra
from vplface.files import replacing
from vplface.progress import Advance, progress
from vplface.reading import PICTURE_LIMIT, UnreadableFileError, is_folder, kind_of, open_regular, parse_json

PICTURES = {b"jpg", b"jpeg", b"png", b"webp", b"bmp"}
LABELS = {b"cls", b"json", b"txt"}
SHARD_BYTES = 10**9
_NOTE = re.compile(rb"__[^/]*__($|/)").match
_WHOLE = re.compile(rb"[0-9]{1,19}").fullmatch
MOST_LABEL_BYTES = 2**20
"""A longer label is treated as malicious."""


class TarShards(StoredPictures):
    """Pictures of one or more tar files, with random access.

    The headers are read once; the index holds a few numbers and the name of each picture. Labels are renumbered
    0, 1, ..., in the order of the numbers in the shards, or of first appearance if they are names. A name shared by
    several numbers is distinguished by the number: "Ada (3)".

    An unusable sample is left out, reported on stderr, and listed in ``faults``. A damaged or truncated tar file is an
    error, since an unknown number of pictures is missing.

    Attributes:
        faults: shard, key, offset and reason for each sample that is left out.
        numbers: number of each identity in the shards; empty if they hold names only.
    """

    def __init__(self, path: Path | str) -> None:
        """Index the shards.

        Args:
            path: a tar file, a folder of them, a brace pattern such as ``train-{000..127}.tar``, or a glob pattern.

        Raises:
            DataError: if a shard is missing, compressed, damaged or cut short, if numbers and names do not agree, or if
                no sample can be used.
            MissingExtraError: for a brace pattern without the package that expands it.
        """
        self._shards = find_shards(Path(path))
        self.faults: list[str] = []
        indices = []
        total = sum(_size(shard) for shard in self._shards)
        with progress(f"indexing {path}, MB", total // 10**6) as advance:
            for shard in self._shards:
                indices.append(_index(shard, advance))
                self.faults += indices[-1].faults
        counts = [len(index.offsets) for index in indices]
        if not sum(counts):
            reason = f"; the first fault: {self.faults[0]}" if self.faults else ""
            raise DataError(f"{path}: holds no labelled pictures{reason}; {_LAYOUT}")
        self._stamps = [index.stamp for index in indices]
        self._shard = np.repeat(np.arange(len(indices), dtype=np.int32), counts)
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self._names = PackedNames(
            b"".join(index.names for index in indices),
            np.cumsum(np.concatenate([index.name_sizes for index in indices])),
        )
        self._identities, self._labels, self.numbers = _identify(self._shards, indices)
        if self.faults:
            say(f"{path}: samples left out: {len(self.faults):,}; the first: {self.faults[0]}", file=sys.stderr)

    def name(self, index: int) -> str:
        """The picture's name, which may occur more than once."""
        self._require(index)
        return text(self._names[index])

    def where(self, index: int) -> str:
        """The shard, the offset of the picture's bytes, and its name, for errors."""
        name = self.name(index)
        return f"{self._shards[self._shard[index]]}: {name!r} at byte {self._offsets[index]}"

    def encoded(self, index: int) -> bytes:
        """The picture's bytes; raises UnreadablePictureError if the shard is missing or has changed."""
        self._require(index)
        shard, size = int(self._shard[index]), int(self._sizes[index])
        # A file opened for each picture costs little beside decoding, and needs no care in forked workers and threads.
        try:
            with os.fdopen(open_regular(self._shards[shard]), "rb", buffering=0) as file:
                if stamp_of(file.fileno()) != self._stamps[shard]:
                    raise UnreadablePictureError(self.where(index), "the shard has changed since it was opened")
                file.seek(int(self._offsets[index]))
                data = file.read(size)
        except UnreadableFileError as error:
            raise UnreadablePictureError(self.where(index), error.reason) from error
        except OSError as error:
            raise UnreadablePictureError(self.where(index), error.strerror or str(error)) from error
        if len(data) != size:
            raise UnreadablePictureError(self.where(index), f"only {len(data)} of {size} bytes could be read")
        return data


class TarShardsWriter:
    """Writes shards of ``pictures_per_shard`` or 1 GB; a :class:`~vplface.data.formats.PictureWriter`.

    A folder gets 000000.tar, 000001.tar, ...; a path that ends in .tar becomes a single shard of any size. Keys are
    numbers, because a name may contain dots, be too long for a tar header, or be duplicate. A shard gets its final name
    when it is complete. An interrupted writer resumes after the last complete shard.
    """

    def __init__(self, path: Path, identities: Sequence[str], pictures_per_shard: int = 10_000) -> None:
        """Count the complete pictures.

        Raises:
            DataError: if the path holds something else, or shards with other identities.
            MissingExtraError: without the package webdataset.
        """
        self._tar_writer = import_extra("webdataset.writer", "webdataset").TarWriter
        self.path = Path(path)
        self._identities = list(identities)
        self._single = self.path.suffix.lower() == ".tar"
        self._most = pictures_per_shard
        self._whole = 0
        self._complete = 0
        self._open = ExitStack()
        self._tar: Any = None
        self._in_shard = self._bytes = 0
        kind = kind_of(self.path)
        if kind is not None and not (self._single and kind == "folder"):
            self._continue()
        elif kind is not None:
            raise DataError(f"{self.path}: is a folder; a path that ends in .tar must be a file")

    def _continue(self) -> None:
        """Resume after the complete shards of an earlier writer, and delete its incomplete one."""
        if not self._single:
            if not is_folder(self.path):
                raise DataError(f"{self.path}: is a file; give a folder, or a path that ends in .tar")
            try:
                found = sorted(entry.name for entry in self.path.iterdir())
                for unfinished in [name for name in found if re.fullmatch(r"\.\d{6}\.tar\..*\.tar", name)]:
                    (self.path / unfinished).unlink()
                    found.remove(unfinished)
            except OSError as error:
                raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error
            if found != [f"{number:06d}.tar" for number in range(len(found))]:
                raise DataError(f"{self.path}: holds other files than the shards of an interrupted run")
            if not found:
                return
            self._whole = len(found)
        else:
            self._whole = 1
        before = TarShards(self.path)
        numbers = before.numbers.tolist()
        names = [self._identities[number] if number < len(self._identities) else None for number in numbers]
        if not numbers or names != list(before.identities) or before.faults:
            raise DataError(f"{self.path}: holds pictures of other identities; write to another path, or remove it")
        self._complete = len(before)

    @property
    def written(self) -> int:
        """Number of pictures in complete shards."""
        return self._complete

    def add(self, encoded: bytes, name: str, label: int) -> None:
        """Append one picture; raises DataError if it cannot be written."""
        if not 0 <= label < len(self._identities):
            known = f"0..{len(self._identities) - 1}"
            raise DataError(f"{self.path}: {name!r} has the label {label}, the identities are {known}")
        if self._tar is None:
            self._begin()
        about = {"label": label, "identity": self._identities[label], "name": name}
        sample = {
            "__key__": f"{self._complete + self._in_shard:08d}",
            "cls": b"%d" % label,
            type_of(encoded) or "jpg": encoded,
            "json": json.dumps(about).encode(),
        }
        try:
            self._bytes += self._tar.write(sample)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._in_shard += 1
        if not self._single and (self._in_shard >= self._most or self._bytes >= SHARD_BYTES):
            self._end()

    def _begin(self) -> None:
        if self._single and self._whole:
            raise DataError(f"{self.path}: is already complete; remove it to write it again")
        shard = self.path if self._single else self.path / f"{self._whole:06d}.tar"
        file = self._open.enter_context(self._open.enter_context(replacing(shard)).open("wb"))
        self._tar = self._open.enter_context(self._tar_writer(file, encoder=False, mtime=0, compress=False))
        self._in_shard = self._bytes = 0

    def _end(self) -> None:
        self._tar = None
        self._open.close()
        self._whole += 1
        self._complete += self._in_shard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._tar is not None:
            self._end()
        elif kind is not None:
            self._open.__exit__(kind, error, trace)


_LAYOUT = "expected samples of files with one key: KEY.jpg and its label in KEY.cls, KEY.json or KEY.txt"


@dataclass
class _Index:
    """Index of one shard; a picture's identity is a position in ``people``."""

    stamp: Stamp
    offsets: Int64[np.ndarray, " n"]
    sizes: Int64[np.ndarray, " n"]
    people: list[tuple[int | None, str | None]]
    person: Int32[np.ndarray, " n"]
    names: bytes
    name_sizes: Int64[np.ndarray, " n"]
    faults: list[str]


@dataclass
class _Sample:
    key: bytes
    at: int
    files: dict[bytes, Member] = field(default_factory=dict)
    fault: str | None = None


class _FaultError(Exception):
    """A sample that cannot be used."""


def _size(shard: Path) -> int:
    handle = open_regular(shard)
    try:
        return stamp_of(handle).size
    finally:
        os.close(handle)


def _index(path: Path, advance: Advance) -> _Index:
    """Index one shard, and report progress in megabytes."""
    offsets, sizes, person, name_sizes = array("q"), array("q"), array("i"), array("q")
    people: dict[tuple[int | None, str | None], int] = {}
    names = bytearray()
    faults: list[str] = []
    try:
        with os.fdopen(open_regular(path), "rb", buffering=2**18) as file:
            stamp = stamp_of(file.fileno())
            reported = 0
            for sample in _samples(file, path, stamp[0]):
                if (megabytes := sample.at // 10**6) > reported + 10:
                    advance(megabytes - reported)
                    reported = megabytes
                try:
                    picture, who, name = _read_sample(file, sample)
                except _FaultError as fault:
                    faults.append(f"{path}: sample {text(sample.key)!r} at byte {sample.at}: {fault}")
                    continue
                offsets.append(picture.start)
                sizes.append(picture.size)
                person.append(people.setdefault(who, len(people)))
                names += name
                name_sizes.append(len(name))
            advance(stamp[0] // 10**6 - reported)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    numbers = [np.array(each, np.int64) for each in (offsets, sizes, name_sizes)]
    return _Index(
        stamp, numbers[0], numbers[1], list(people), np.array(person, np.int32), bytes(names), numbers[2], faults
    )


def _identify(
    shards: list[Path], indices: list[_Index]
) -> tuple[list[str], Int64[np.ndarray, " n"], Int64[np.ndarray, " identities"]]:
    """The identities of all shards, the label of each picture, and the number of each identity."""
    named: dict[int, str | None] = {}
    places: dict[str, int] = {}
    for shard, index in zip(shards, indices, strict=True):
        for number, name in index.people:
            if number is None:
                assert name is not None
                places.setdefault(name, len(places))
            elif named.setdefault(number, name) is None:
                named[number] = name
            elif name not in (None, named[number]):
                raise DataError(f"{shard}: the label {number} is called {name!r}, but earlier {named[number]!r}")
            if named and places:
                raise DataError(f"{shard}: some samples have numbers for labels, others only names such as {name!r}")
    numbers = np.array(sorted(named), dtype=np.int64)
    identities = list(places)
    if named:
        places_of_numbers = {number: place for place, number in enumerate(numbers.tolist())}
        known = [named[number] or str(number) for number in places_of_numbers]
        count = Counter(known)
        identities = [
            name if count[name] == 1 else f"{name} ({number})" for name, number in zip(known, numbers, strict=True)
        ]
    labels = []
    for index in indices:
        place = [places[name or ""] if number is None else places_of_numbers[number] for number, name in index.people]
        labels.append(np.array(place, dtype=np.int64)[index.person])
    return identities, np.concatenate(labels), numbers


def _read_sample(file: BinaryIO, sample: _Sample) -> tuple[Member, tuple[int | None, str | None], bytes]:
    """Picture, number and name of its identity, and the picture's name."""
    if sample.fault is not None:
        raise _FaultError(sample.fault)
    pictures = [suffix for suffix in sample.files if suffix in PICTURES]
    if len(pictures) > 1:
        raise _FaultError(f"has {len(pictures)} pictures")
    if not pictures:
        dotted = [suffix for suffix in sample.files if suffix.rpartition(b".")[2] in PICTURES]
        hint = f" but {text(sample.files[dotted[0]].name)!r}; a key ends at the first dot" if dotted else ""
        raise _FaultError(f"has no picture{hint}")
    about = _read_json(_contents(file, sample.files[b"json"])) if b"json" in sample.files else {}
    number, identity = about.get("label"), about.get("identity")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise _FaultError(f'"label" in .json is not a whole number: {_shown(number)}')
    if b"cls" in sample.files:
        given = _contents(file, sample.files[b"cls"]).strip()
        if not _WHOLE(given):
            raise _FaultError(f".cls is not a whole number: {text(given[:40])!r}")
        if number not in (None, int(given)):
            raise _FaultError(f".cls says {int(given)}, .json says {number}")
        number = int(given)
    elif number is None and identity is None and b"txt" in sample.files:
        given = _contents(file, sample.files[b"txt"]).strip()
        number, identity = (int(given), None) if _WHOLE(given) else (None, text(given))
    if number is not None and not 0 <= number < 2**63:
        raise _FaultError(f"the label {number} is out of range")
    if identity is not None and not (isinstance(identity, str) and identity):
        raise _FaultError(f"invalid identity name: {_shown(identity)}")
    if number is None and identity is None:
        raise _FaultError("has no label")
    picture = sample.files[pictures[0]]
    if picture.size > PICTURE_LIMIT:
        raise _FaultError(f"its picture has {picture.size:,} bytes, more than the limit of {PICTURE_LIMIT:,}")
    name = about.get("name", text(picture.name))
    if not isinstance(name, str):
        raise _FaultError(f'"name" in .json is not a string: {_shown(name)}')
    return picture, (number, identity), name.encode("utf-8", "surrogatepass")


def _shown(value: object) -> str:
    """The beginning of a JSON value; for lists and objects, which may be deep, their type."""
    return type(value).__name__ if isinstance(value, list | dict) else repr(str(value)[:40])


def _contents(file: BinaryIO, member: Member) -> bytes:
    if member.size > MOST_LABEL_BYTES:
        raise _FaultError(f"{text(member.name)!r} has {member.size:,} bytes, too many for a label")
    file.seek(member.start)
    return file.read(member.size)


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        values = parse_json(data, ".json")
    except DataError as error:
        raise _FaultError(f".json is not valid: {error.__cause__}") from error
    if not isinstance(values, dict):
        raise _FaultError(".json is not an object")
    return values


def _samples(file: BinaryIO, path: Path, length: int) -> Iterator[_Sample]:
    """Consecutive files of one key, where there is a picture, a label or a fault among them."""
    sample = _Sample(b"", 0)
    for member in members(file, path, length):
        folder, slash, base = member.name.rpartition(b"/")
        stem, _, suffix = base.partition(b".")
        key = folder + slash + stem
        suffix = suffix.lower()
        if member.fault is None and (not stem or not suffix or _NOTE(member.name)):
            continue  # as the format has it: hidden files, files without a suffix, and notes about the shard
        if key != sample.key:
            if _counts(sample):
                yield sample
            sample = _Sample(key, member.at)
        if suffix in sample.files:
            sample.fault = sample.fault or f"has two files .{text(suffix)}"
        sample.fault = sample.fault or member.fault
        sample.files[suffix] = member
    if _counts(sample):
        yield sample


def _counts(sample: _Sample) -> bool:
    return sample.fault is not None or any(
        suffix in LABELS or suffix.rpartition(b".")[2] in PICTURES for suffix in sample.files
    )
