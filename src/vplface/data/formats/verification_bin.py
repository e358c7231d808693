"""InsightFace's verification sets: one .bin file with pictures in pairs and whether each pair shows one person.

Such a file is a pickle of two lists, of 2p encoded pictures and of p truth values; pair i is pictures 2i and 2i + 1.
Loading a pickle runs whatever its author wrote into it. So it is not loaded here: :class:`_Reader` walks its opcodes
and notes where the pictures lie in the file. Nothing that a file names is looked up, imported or called; the few names
that bytes and numpy arrays are written with stand for values of this module.
"""

from __future__ import annotations

import codecs
import hashlib
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vplface.data.encoded import type_of
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

MOST_OPCODES = 10_000_000
"""A file that goes on for longer than this is no set of pictures; it would only fill the memory."""


class VerificationBin(StoredPictures):
    """The pictures and pairs of a .bin file.

    Pictures that are equal byte for byte are one picture. The file says nothing of who is shown: people are the
    connected components of the genuine pairs, numbered in the order in which they occur; a person whose pictures are
    in no common chain of genuine pairs counts as several. A picture is named PERSON/NUMBER and its file type.

    Attributes:
        path: the file.
        pairs: the pairs in the file's order, in ten contiguous folds.
    """

    pairs: Pairs

    def __init__(self, path: Path | str) -> None:
        """Find the pictures in the file; they are read only when asked for.

        Raises:
            DataError: if the file is missing, cut short, or holds anything but pictures and truth values. The opcode
                or the name that is refused is given with its place in the file.
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
            return place.decode(self._file.read(place.start, place.length))
        except OSError as error:
            raise UnreadablePictureError(where, error.strerror or str(error)) from error
        except ValueError as error:
            raise UnreadablePictureError(where, f"the file has changed: {error}") from error

    def _read(self) -> tuple[Int64[np.ndarray, " n"], np.ndarray, list[str]]:
        """The number of each picture among the distinct ones, the truth values, and the suffixes of the distinct."""
        data = ReadAhead(self._file)
        pictures, same = _pictures_and_truths(self.path, data)
        numbers: dict[_Bytes, int] = {}
        distinct: dict[bytes, int] = {}
        self._places: list[_Bytes] = []
        types: list[str] = []
        with progress(f"reading {self.path}", len(pictures)) as advance:
            for picture in pictures:
                if picture not in numbers:  # one place in the file may be referred to any number of times
                    content = self._content(data, picture)
                    number = distinct.setdefault(hashlib.blake2b(content, digest_size=16).digest(), len(distinct))
                    numbers[picture] = number
                    if number == len(self._places):
                        self._places.append(picture)
                        kind = type_of(content)
                        types.append(f".{kind}" if kind else "")
                advance(1)
        return np.array([numbers[picture] for picture in pictures], np.int64), same, types

    def _content(self, data: Source, place: _Bytes) -> bytes:
        if place.length > PICTURE_LIMIT:
            raise DataError(
                f"{self.path}: the string at byte {place.start} has {place.length:,} bytes, more than a picture"
            )
        try:
            return place.decode(data.read(place.start, place.length))
        except ValueError as error:
            raise DataError(f"{self.path}: the string at byte {place.start} is no picture: {error}") from error


def write_verification_bin(path: Path | str, pictures: StoredPictures, pairs: Pairs) -> None:
    """Write pairs of pictures as InsightFace's loaders read them: a pickle of protocol 3, picture by picture.

    Pictures are copied as they are stored. A picture of several pairs is written several times, as is the custom.

    Raises:
        DataError: if there are no pairs, if a picture is not in the set, if the folds of the pairs are not what a
            reader makes of a file (which holds none: it cuts the pairs into ten contiguous folds), or if the file
            cannot be written.
        UnreadablePictureError: if a picture cannot be read.
    """
    path = Path(path)
    if not len(pairs):
        raise DataError(f"{path}: there are no pairs to write")
    if pairs.fold.min() != pairs.fold.max() and not np.array_equal(pairs.fold, _contiguous_folds(len(pairs))):
        raise DataError(
            f"{path}: the file type has no folds, its readers cut the pairs into {FOLDS} contiguous ones, and those "
            "are not the folds of these pairs; give the pairs in one fold to write them all the same"
        )
    order = np.stack(resolve(pairs, pictures), axis=1).reshape(-1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_LIST)
        with progress(f"writing {path}", len(order)) as advance:
            for start in range(0, len(order), 1000):  # a reader holds a thousand before they are a list
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


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A string in the file, and how its bytes are written there.

    ``raw``: as they are. ``utf-8``: as text, each character of which is a byte. ``raw_unicode_escape``: the same text
    with escapes. ``escape``: as between the quotes of a Python string.
    """

    start: int
    length: int
    coding: str = "raw"
    is_text: bool = False

    def decode(self, stored: bytes) -> bytes:
        """The bytes; raises ValueError if they are not written so."""
        if self.coding == "raw":
            return stored
        if self.coding == "escape":
            return bytes(codecs.escape_decode(stored)[0])
        return stored.decode(self.coding).encode("latin-1")


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the file refers to; no more than the name."""

    name: str


@dataclass(slots=True)
class _Kind:
    """A numpy data type: truth values, or whole numbers of an order of bytes."""

    kind: str
    order: str = "<"


@dataclass(slots=True)
class _Array:
    """A numpy array or scalar of a kind that is, or is yet to be, filled with bytes of the file."""

    kind: _Kind | None = None
    content: _Bytes | None = None

    def values(self, data: ReadAhead) -> list[int]:
        """What it holds, of which a file names no more than it has bytes."""
        assert self.kind is not None
        assert self.content is not None
        stored = _decoded(data, self.content)
        kind = np.dtype(self.kind.kind).newbyteorder("<" if self.kind.order != ">" else ">")
        if len(stored) % kind.itemsize:
            raise _Refused(f"an array of {len(stored)} bytes that is to hold values of {kind.itemsize}")
        values: list[int] = np.frombuffer(stored, kind).tolist()
        return values


_MARK = object()
_OPCODES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
_ENCODE = "_codecs.encode"
_BYTES = ("__builtin__.bytes", "builtins.bytes")
_NDARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ARRAY_MAKERS = ("_reconstruct", "scalar", "_frombuffer")
_ALLOWED = {
    _ENCODE,
    *_BYTES,
    _NDARRAY,
    _DTYPE,
    *(f"{module}.{maker}" for module in _ARRAY_MODULES for maker in _ARRAY_MAKERS),
}


class _Refused(Exception):  # noqa: N818 - it becomes a DataError with the place
    """What is read is not what a verification set is made of."""


def _pictures_and_truths(path: Path, data: ReadAhead) -> tuple[list[_Bytes], np.ndarray]:
    reader = _Reader(data)
    try:
        top = reader.read()
        if not isinstance(top, list) or len(top) != 2 or not isinstance(top[0], list):
            raise _Refused("it holds no pair of lists, of pictures and of truth values")
        pictures = [_picture(value, place) for place, value in enumerate(top[0])]
        same = _truths(data, top[1])
    except _Refused as refused:
        raise DataError(
            f"{path}: not a verification set that can be trusted, at byte {reader.last}: {refused}. Nothing in the "
            "file was run; expected is a pickle of a list of encoded pictures and a list of truth values"
        ) from None
    if len(pictures) != 2 * len(same) or not len(same):
        raise DataError(f"{path}: {len(pictures)} pictures and {len(same)} pairs; expected are two pictures a pair")
    return pictures, same


def _picture(value: Any, place: int) -> _Bytes:
    if isinstance(value, _Array) and value.content is not None and value.kind is not None and value.kind.kind == "u1":
        return value.content
    if isinstance(value, _Bytes) and not value.is_text:
        return value
    raise _Refused(f"picture {place} is not a string of bytes")


def _truths(data: ReadAhead, value: Any) -> np.ndarray:
    if isinstance(value, _Array) and value.content is not None:
        value = value.values(data)
    if not isinstance(value, list):
        raise _Refused("the second of the two is no list of truth values")
    truths = np.empty(len(value), dtype=bool)
    for place, truth in enumerate(value):
        if isinstance(truth, _Array) and truth.content is not None:
            values = truth.values(data) if truth.content.length <= _LONGEST_SCALAR else []
            truth = values[0] if len(values) == 1 else None
        if not isinstance(truth, int) or truth not in (0, 1):
            raise _Refused(f"truth value {place} is neither true nor false")
        truths[place] = truth
    return truths


def _decoded(data: ReadAhead, place: _Bytes) -> bytes:
    try:
        return place.decode(data.source.read(place.start, place.length))
    except ValueError as error:
        raise _Refused(f"the string at byte {place.start} cannot be read: {error}") from None


class _Reader:
    """A stack machine for those opcodes of pickle's protocols 0 to 5 that lists of byte strings are written with.

    Strings stay in the file, so memory grows with the number of opcodes only, which is limited. Tuples are lists here:
    nothing is hashed, compared or printed, so that depth does no harm.
    """

    def __init__(self, data: ReadAhead) -> None:
        self.data = data
        self.position = 0
        self.last = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The value that the pickle stands for; raises _Refused."""
        for _ in range(MOST_OPCODES):
            self.last = self.position
            opcode = self.take(1)
            if opcode == pickle.STOP:
                return self.pop()
            act = _ACTIONS.get(opcode)
            if act is None:
                known = _OPCODES.get(opcode.decode("latin-1"))
                raise _Refused(f"{f'the opcode {known}' if known else f'{opcode!r}, no opcode,'} is not allowed")
            act(self)
        raise _Refused(f"it goes on for more than {MOST_OPCODES:,} opcodes")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.skip(count)
        return self.data.read(self.position - count, count)

    def skip(self, count: int) -> None:
        """Step over bytes, which must be there."""
        if count > self.data.size - self.position:
            raise _Refused(f"the file ends {count - self.data.size + self.position:,} bytes too early: it is cut short")
        self.position += count

    def number(self, form: str) -> int:
        """The next number, of a form of struct's."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self, longest: int) -> bytes:
        """The bytes up to the next line break."""
        end = self.data.find(b"\n", self.position, self.position + longest + 1)
        if end < 0:
            raise _Refused(f"there is no line break within {longest:,} bytes")
        start, self.position = self.position, end + 1
        return self.data.read(start, end - start)

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take a value, no mark, from the stack."""
        if not self.stack or self.stack[-1] is _MARK:
            raise _Refused("a value is missing")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which stays there."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise _Refused("a value is missing, or of another type than it should be")
        return self.stack[-1]

    def to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise _Refused("a mark is missing")

    def gather(self, count: int) -> list[Any]:
        """Take so many values."""
        return [self.pop() for _ in range(count)][::-1]

    def string(self, form: str, coding: str = "raw", is_text: bool = False) -> None:
        """A string after its length."""
        length = self.number(form)
        if length < 0:
            raise _Refused("a string of negative length")
        self.push(_Bytes(self.position, length, coding, is_text))
        self.skip(length)

    def quoted(self) -> None:
        """A string in quotes, up to the end of its line."""
        start = self.position
        end = self.data.find(b"\n", start)
        if end - start > PICTURE_LIMIT:
            raise _Refused(f"a string of {end - start:,} bytes")
        line = self.data.read(start, max(end - start, 0)).rstrip()
        if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
            raise _Refused("a string is not in quotes")
        self.push(_Bytes(start + 1, len(line) - 2, "escape"))
        self.position = end + 1

    def escaped_text(self) -> None:
        """A text up to the end of its line."""
        start = self.position
        end = self.data.find(b"\n", start)
        if end < 0:
            raise _Refused("a text has no end")
        self.push(_Bytes(start, end - start, "raw_unicode_escape", is_text=True))
        self.position = end + 1

    def decimal(self) -> None:
        """A number in digits; 00 and 01 are truth values."""
        line = self.line(20).strip()
        if not re.fullmatch(rb"-?[0-9]+L?", line):
            raise _Refused("a number that is not written in digits")
        self.push(line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L")))

    def long(self) -> None:
        """A number of a few bytes."""
        size = self.number("<B")
        if size > 8:
            raise _Refused("a number that is longer than any here")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def get(self, key: int) -> None:
        """A remembered value."""
        if key not in self.memo:
            raise _Refused(f"value {key} is used, but was not remembered")
        self.push(self.memo[key])

    def put(self, key: int) -> None:
        """Remember the value on top."""
        self.memo[key] = self.top(object)

    def key(self) -> int:
        """A number of a remembered value, in digits."""
        line = self.line(20).strip()
        if not line.isdigit():
            raise _Refused("a number that is not written in digits")
        return int(line)

    def extend(self, values: Iterable[Any]) -> None:
        """Add values to the list on top."""
        self.top(list).extend(values)

    def append(self) -> None:
        """Add the value on top to the list below it."""
        value = self.pop()
        self.top(list).append(value)

    def name(self, module: str, attribute: str) -> None:
        """A name, if it is one that bytes or numpy arrays are written with."""
        name = f"{module}.{attribute}"
        if name not in _ALLOWED:
            raise _Refused(f"it asks for {name!r}, which is not allowed")
        self.push(_Name(name))

    def global_name(self) -> None:
        """A name in two lines."""
        module, attribute = (self.line(256).decode("utf-8", "replace") for _ in range(2))
        self.name(module, attribute)

    def stack_name(self) -> None:
        """A name in two texts on the stack."""
        module, attribute = (self.text(value) for value in self.gather(2))
        self.name(module, attribute)

    def text(self, value: Any) -> str:
        """A short string of the file."""
        if not isinstance(value, _Bytes) or value.length > 256:
            raise _Refused("a name is missing")
        return _decoded(self.data, value).decode("latin-1")

    def reduce(self) -> None:
        """What a name stands for, applied to the values on top."""
        called, arguments = self.gather(2)
        if not isinstance(called, _Name) or not isinstance(arguments, list):
            raise _Refused("something is called that is no name")
        self.push(self.made(called.name, arguments))

    def made(self, name: str, arguments: list[Any]) -> Any:
        """The value that an allowed name makes."""
        match arguments:
            case [_Bytes(is_text=True) as text, coding] if name == _ENCODE and self.text(coding) in _LATIN_1:
                return _Bytes(text.start, text.length, text.coding)
            case [] if name in _BYTES:
                return _Bytes(self.position, 0)
            case [kind, *_] if name == _DTYPE and (found := _NUMBERS.fullmatch(self.text(kind))):
                return _Kind(found[2], found[1] or "<")
            case [_Name(name=str(made)), *_] if name.endswith("._reconstruct") and made == _NDARRAY:
                return _Array()
            case [_Kind() as kind, _Bytes(is_text=False) as content] if name.endswith(".scalar"):
                return _filled(_Array(), kind, [], content)
            case [_Bytes(is_text=False) as content, _Kind() as kind, list(shape), *_] if name.endswith("._frombuffer"):
                return _filled(_Array(), kind, shape, content)
        raise _Refused(f"{name!r} is not used as bytes or an array of whole numbers or truth values would use it")

    def build(self) -> None:
        """The state of an array or of a data type."""
        state = self.pop()
        target = self.top(object)
        match target, state:
            case _Kind(), [_, _Bytes() as order, *_]:  # and alignment, which has no weight here
                target.order = self.text(order)
                return
            case _Array(content=None), [_, list(shape), _Kind() as kind, _, _Bytes(is_text=False) as content]:
                _filled(target, kind, shape, content)
                return
        raise _Refused("a state is set on a value that is not an array of integers or booleans")


_NUMBERS = re.compile(r"([<>|=]?)(b1|[iu][1248])")
_LONGEST_SCALAR = 64  # bytes in the file, where protocol 0 takes six for one
_LATIN_1 = ("latin1", "latin-1", "iso-8859-1")


def _filled(array: _Array, kind: _Kind, shape: list[Any], content: _Bytes) -> _Array:
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _Refused("the shape of an array is not made of numbers")
    if sum(side != 1 for side in shape) > 1:
        raise _Refused(f"an array of shape {shape}: decoded pictures cannot be read, only encoded ones")
    array.kind, array.content = kind, content
    return array


_ACTIONS: dict[bytes, Callable[[_Reader], Any]] = {
    pickle.PROTO: lambda r: r.skip(1),
    pickle.FRAME: lambda r: r.skip(8),
    pickle.MARK: lambda r: r.push(_MARK),
    pickle.POP: lambda r: r.pop(),
    pickle.NONE: lambda r: r.push(None),
    pickle.NEWTRUE: lambda r: r.push(True),
    pickle.NEWFALSE: lambda r: r.push(False),
    pickle.INT: _Reader.decimal,
    pickle.LONG: _Reader.decimal,
    pickle.BININT: lambda r: r.push(r.number("<i")),
    pickle.BININT1: lambda r: r.push(r.number("<B")),
    pickle.BININT2: lambda r: r.push(r.number("<H")),
    pickle.LONG1: _Reader.long,
    pickle.STRING: _Reader.quoted,
    pickle.BINSTRING: lambda r: r.string("<i"),
    pickle.SHORT_BINSTRING: lambda r: r.string("<B"),
    pickle.BINBYTES: lambda r: r.string("<I"),
    pickle.SHORT_BINBYTES: lambda r: r.string("<B"),
    pickle.BINBYTES8: lambda r: r.string("<Q"),
    pickle.BYTEARRAY8: lambda r: r.string("<Q"),
    pickle.UNICODE: _Reader.escaped_text,
    pickle.BINUNICODE: lambda r: r.string("<I", "utf-8", is_text=True),
    pickle.SHORT_BINUNICODE: lambda r: r.string("<B", "utf-8", is_text=True),
    pickle.BINUNICODE8: lambda r: r.string("<Q", "utf-8", is_text=True),
    pickle.EMPTY_LIST: lambda r: r.push([]),
    pickle.EMPTY_TUPLE: lambda r: r.push([]),
    pickle.LIST: lambda r: r.push(r.to_mark()),
    pickle.TUPLE: lambda r: r.push(r.to_mark()),
    pickle.TUPLE1: lambda r: r.push(r.gather(1)),
    pickle.TUPLE2: lambda r: r.push(r.gather(2)),
    pickle.TUPLE3: lambda r: r.push(r.gather(3)),
    pickle.APPEND: _Reader.append,
    pickle.APPENDS: lambda r: r.extend(r.to_mark()),
    pickle.GET: lambda r: r.get(r.key()),
    pickle.BINGET: lambda r: r.get(r.number("<B")),
    pickle.LONG_BINGET: lambda r: r.get(r.number("<I")),
    pickle.PUT: lambda r: r.put(r.key()),
    pickle.BINPUT: lambda r: r.put(r.number("<B")),
    pickle.LONG_BINPUT: lambda r: r.put(r.number("<I")),
    pickle.MEMOIZE: lambda r: r.put(len(r.memo)),
    pickle.GLOBAL: _Reader.global_name,
    pickle.STACK_GLOBAL: _Reader.stack_name,
    pickle.REDUCE: _Reader.reduce,
    pickle.BUILD: _Reader.build,
}
