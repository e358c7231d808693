"""InsightFace's verification sets: one .bin file with pictures in pairs and whether each pair shows one person.

Such a file is a pickle of two lists, of 2p encoded pictures and of p booleans; pair i is pictures 2i and 2i + 1.
Loading a pickle runs any code that its author wrote into it, so it is not loaded:
:mod:`vplface.data.formats.pickle_values` finds where the pictures lie in the file.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from vplface.data.encoded import type_of
from vplface.data.formats.pickle_opcodes import RefusedPickleError, StoredBytes
from vplface.data.formats.pickle_values import NumpyArray, PickleReader
from vplface.data.formats.random_access import RandomAccess, ReadAhead, Source
from vplface.data.pairs import Pairs, resolve
from vplface.data.pictures import StoredPictures, UnreadablePictureError
from vplface.errors import DataError, import_extra
from vplface.files import replacing
from vplface.progress import progress
from vplface.reading import PICTURE_LIMIT

sparse: Any = import_extra("scipy.sparse", "train")
csgraph: Any = import_extra("scipy.sparse.csgraph", "train")

FOLDS = 10
"""Contiguous parts that the pairs are cut into, the first p mod 10 of which are one longer."""

_LONGEST_SCALAR = 64
"""Bytes of a numpy scalar in the file, where protocol 0 takes six for one."""


class VerificationBin(StoredPictures):
    """The pictures and pairs of a .bin file.

    Pictures that are equal byte for byte are one picture. The file does not name people: they are the connected
    components of the genuine pairs, numbered in the order in which they occur. A person whose pictures no genuine pairs
    connect counts as several. A picture is named PERSON/NUMBER and its file type.

    Attributes:
        path: the file.
        pairs: the pairs in the file's order, in ten contiguous folds.
    """

    pairs: Pairs

    def __init__(self, path: Path | str) -> None:
        """Find the pictures in the file and the pairs.

        Raises:
            DataError: if the file is missing, cut short, or holds anything but pictures and booleans. The opcode
                or the name that is refused is named with its place in the file.
        """
        self.path = Path(path)
        self._file = RandomAccess(self.path)
        if not self._file.size:
            raise DataError(f"{self.path}: the file is empty")
        try:
            which, same, types = self._read()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        left, right = which[0::2], which[1::2]
        self._labels = _components(len(self._places), left[same], right[same])
        self._identities = [f"{person:05d}" for person in range(int(self._labels.max()) + 1)]
        self._names = [f"{person:05d}/{index:05d}{types[index]}" for index, person in enumerate(self._labels)]
        self.pairs = Pairs(
            [self._names[index] for index in left],
            [self._names[index] for index in right],
            same,
            _contiguous_folds(len(same)),
        )

    def name(self, index: int) -> str:
        """PERSON/NUMBER and the file type, "00003/00012.jpg"."""
        self._require(index)
        return self._names[index]

    def where(self, index: int) -> str:
        """The file and the picture's byte in it, for errors."""
        return f"{self.path}, {self.name(index)} at byte {self._places[index].start}"

    def encoded(self, index: int) -> bytes:
        """The picture's file; raises UnreadablePictureError with its place and the reason."""
        where, place = self.where(index), self._places[index]
        try:
            return place.read(self._file)
        except OSError as error:
            raise UnreadablePictureError(where, error.strerror or str(error)) from error
        except ValueError as error:
            raise UnreadablePictureError(where, f"the file has changed: {error}") from error

    def _read(self) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " p"], list[str]]:
        """The number of each picture among the distinct ones, the booleans, and the suffixes of the distinct."""
        data = ReadAhead(self._file)
        pictures, same = _pictures_and_truths(self.path, data)
        numbers: dict[StoredBytes, int] = {}
        distinct: dict[bytes, int] = {}
        self._places: list[StoredBytes] = []
        types: list[str] = []
        with progress(f"reading {self.path}", len(pictures)) as advance:
            for picture in pictures:
                if picture not in numbers:  # pairs may refer to one place in the file any number of times
                    content = self._content(data, picture)
                    number = distinct.setdefault(hashlib.blake2b(content, digest_size=16).digest(), len(distinct))
                    numbers[picture] = number
                    if number == len(self._places):
                        self._places.append(picture)
                        kind = type_of(content)
                        types.append(f".{kind}" if kind else "")
                advance(1)
        return np.array([numbers[picture] for picture in pictures], np.int64), same, types

    def _content(self, data: Source, place: StoredBytes) -> bytes:
        if place.length > PICTURE_LIMIT:
            raise DataError(
                f"{self.path}: the string at byte {place.start} has {place.length:,} bytes, more than a picture"
            )
        try:
            return place.read(data)
        except ValueError as error:
            raise DataError(f"{self.path}: the string at byte {place.start} is not a picture: {error}") from error


def write_verification_bin(path: Path | str, pictures: StoredPictures, pairs: Pairs) -> None:
    """Write pairs of pictures as InsightFace's loaders read them: a pickle of protocol 3, picture by picture.

    Pictures are copied as they are stored. A picture of several pairs is written several times, as in InsightFace's own
    files.

    Raises:
        DataError: if there are no pairs, if a picture is not in the set, if the folds of the pairs are not the ten
            contiguous ones that a reader cuts them into (the file holds no folds), or if the file cannot be written.
        UnreadablePictureError: if a picture cannot be read.
    """
    path = Path(path)
    if not len(pairs):
        raise DataError(f"{path}: there are no pairs to write")
    if pairs.fold.min() != pairs.fold.max() and not np.array_equal(pairs.fold, _contiguous_folds(len(pairs))):
        raise DataError(
            f"{path}: a .bin file has no folds; its readers cut the pairs into {FOLDS} contiguous ones, and these "
            "pairs have others. To write them without their folds, put all pairs into one fold"
        )
    order = np.stack(resolve(pairs, pictures), axis=1).reshape(-1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_LIST)
        with progress(f"writing {path}", len(order)) as advance:
            for start in range(0, len(order), 1000):  # a reader holds this many before it appends them to the list
                file.write(pickle.MARK)
                for index in order[start : start + 1000].tolist():
                    encoded = pictures.encoded(index)
                    file.write(pickle.BINBYTES + struct.pack("<I", len(encoded)) + encoded)
                    advance(1)
                file.write(pickle.APPENDS)
        truths = b"".join(pickle.NEWTRUE if same else pickle.NEWFALSE for same in pairs.same)
        file.write(pickle.EMPTY_LIST + pickle.MARK + truths + pickle.APPENDS + pickle.TUPLE2 + pickle.STOP)


def _contiguous_folds(count: int) -> Int64[np.ndarray, " p"]:
    sizes = np.full(FOLDS, count // FOLDS) + (np.arange(FOLDS) < count % FOLDS)
    return np.repeat(np.arange(FOLDS, dtype=np.int64), sizes)


def _components(count: int, left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"]) -> Int64[np.ndarray, " n"]:
    """The connected component of each of ``count`` nodes, numbered in the order in which components occur."""
    edges = sparse.coo_array((np.ones(len(left), bool), (left, right)), (count, count))
    component = csgraph.connected_components(edges, directed=False)[1]
    first_node = np.unique(component, return_index=True)[1]
    return np.unique(first_node[component], return_inverse=True)[1].astype(np.int64)


def _pictures_and_truths(path: Path, data: ReadAhead) -> tuple[list[StoredBytes], Bool[np.ndarray, " p"]]:
    reader = PickleReader(data)
    try:
        top = reader.read()
        if not isinstance(top, list) or len(top) != 2 or not isinstance(top[0], list):
            raise RefusedPickleError("it does not hold a list of pictures and a list of booleans")
        pictures = [_picture(value, place) for place, value in enumerate(top[0])]
        same = _truths(data, top[1])
    except RefusedPickleError as refused:
        raise DataError(
            f"{path}: not a verification set that can be trusted, at byte {reader.opcode_start}: {refused}. Nothing in "
            "the file was run; expected a pickle of a list of encoded pictures and a list of booleans"
        ) from None
    if len(pictures) != 2 * len(same) or not len(same):
        raise DataError(f"{path}: {len(pictures)} pictures and {len(same)} pairs; expected two pictures for each pair")
    return pictures, same


def _picture(value: Any, place: int) -> StoredBytes:
    if isinstance(value, NumpyArray) and value.content is not None and value.is_bytes:
        return value.content
    if isinstance(value, StoredBytes) and not value.is_text:
        return value
    raise RefusedPickleError(f"picture {place} is not a string of bytes")


def _truths(data: ReadAhead, value: Any) -> Bool[np.ndarray, " p"]:
    if isinstance(value, NumpyArray) and value.content is not None:
        value = value.values(data)
    if not isinstance(value, list):
        raise RefusedPickleError("its second value is not a list of booleans")
    truths = np.empty(len(value), dtype=bool)
    for place, truth in enumerate(value):
        if isinstance(truth, NumpyArray) and truth.content is not None:
            values = truth.values(data) if truth.content.length <= _LONGEST_SCALAR else []
            truth = values[0] if len(values) == 1 else None
        if not isinstance(truth, int) or truth not in (0, 1):
            raise RefusedPickleError(f"boolean {place} is neither true nor false")
        truths[place] = truth
    return truths
