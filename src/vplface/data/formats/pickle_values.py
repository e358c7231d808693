"""Values of a pickle of lists, byte strings and numpy arrays, read without running it.

Loading a pickle runs any code that its author wrote into it. Here a stack machine interprets the few opcodes that such
pickles consist of, in protocols 0 to 5, and refuses all others. Nothing that a file names is looked up, imported or
called: the few names that represent bytes and numpy arrays are mapped to values of this module.

Strings stay in the file, so memory grows with the number of opcodes only, which is limited. Tuples are lists: nothing
is hashed, compared or printed, so that depth does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vplface.data.formats.pickle_opcodes import OpcodeReader, RefusedPickleError, StoredBytes
from vplface.data.formats.random_access import ReadAhead

_ENCODE = "_codecs.encode"
_BYTES = ("__builtin__.bytes", "builtins.bytes")
_NDARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ARRAY_MAKERS = ("_reconstruct", "scalar", "_frombuffer")
_ALLOWED_NAMES = {
    _ENCODE,
    *_BYTES,
    _NDARRAY,
    _DTYPE,
    *(f"{module}.{maker}" for module in _ARRAY_MODULES for maker in _ARRAY_MAKERS),
}
_NUMBERS = re.compile(r"([<>|=]?)(b1|[iu][1248])")
_LATIN_1 = ("latin1", "latin-1", "iso-8859-1")
_MARK = object()


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the file refers to, not its object."""

    name: str


@dataclass(slots=True)
class _DataType:
    """A numpy data type of booleans or whole numbers: numpy's code of it and the order of its bytes."""

    code: str
    order: str = "<"


@dataclass(slots=True)
class NumpyArray:
    """A numpy array or scalar, filled or yet to be filled with bytes of the file."""

    kind: _DataType | None = None
    content: StoredBytes | None = None

    @property
    def is_bytes(self) -> bool:
        """Whether its elements are unsigned bytes."""
        return self.kind is not None and self.kind.code == "u1"

    def values(self, data: ReadAhead) -> list[int]:
        """The elements, of which there are at most as many as bytes in the file.

        Raises:
            RefusedPickleError: content that cannot be read, or that is not a whole number of elements.
        """
        assert self.kind is not None
        assert self.content is not None
        stored = _read(self.content, data)
        kind = np.dtype(self.kind.code).newbyteorder("<" if self.kind.order != ">" else ">")
        if len(stored) % kind.itemsize:
            raise RefusedPickleError(f"an array of {len(stored)} bytes with elements of {kind.itemsize} bytes")
        values: list[int] = np.frombuffer(stored, kind).tolist()
        return values


class PickleReader:
    """The value that a pickle stands for: numbers, :class:`StoredBytes`, :class:`NumpyArray`, and lists of them."""

    def __init__(self, data: ReadAhead) -> None:
        self._data = data
        self._opcodes = OpcodeReader(data)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    @property
    def opcode_start(self) -> int:
        """The byte of the opcode that was read last, for errors."""
        return self._opcodes.opcode_start

    def read(self) -> Any:
        """The value; raises RefusedPickleError."""
        for name, argument in self._opcodes.opcodes(_ALLOWED_OPCODES):
            if name in _VALUE_IS_ARGUMENT:
                self._stack.append(argument)
            elif name in _ACTIONS_WITH_ARGUMENT:
                _ACTIONS_WITH_ARGUMENT[name](self, argument)
            else:
                _ACTIONS[name](self)
        return self._pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        """Pop a value that is not a mark from the stack."""
        if not self._stack or self._stack[-1] is _MARK:
            raise RefusedPickleError("a value is missing")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        """The value on top of the stack, without popping it."""
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise RefusedPickleError("a value is missing or of the wrong type")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise RefusedPickleError("a mark is missing")

    def _pop_many(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise RefusedPickleError(f"value {key} is used, but was not stored")
        self._push(self._memo[key])

    def _put(self, key: int) -> None:
        if key < 0:
            raise RefusedPickleError(f"a value is stored under the negative number {key}")
        self._memo[key] = self._top(object)

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _extend(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _push_name(self, module: str, attribute: str) -> None:
        """A name, if it is one of those that represent bytes or numpy arrays."""
        name = f"{module}.{attribute}"
        if name not in _ALLOWED_NAMES:
            raise RefusedPickleError(f"it asks for {name!r}, which is not allowed")
        self._push(_Name(name))

    def _name_of_stack(self) -> None:
        module, attribute = (self._short_text(value) for value in self._pop_many(2))
        self._push_name(module, attribute)

    def _short_text(self, value: Any) -> str:
        if not isinstance(value, StoredBytes) or value.length > 256:
            raise RefusedPickleError("a name is missing")
        return _read(value, self._data).decode("latin-1")

    def _reduce(self) -> None:
        called, arguments = self._pop_many(2)
        if not isinstance(called, _Name) or not isinstance(arguments, list):
            raise RefusedPickleError("a value is called that is not a name")
        self._push(self._value_of_call(called.name, arguments))

    def _value_of_call(self, name: str, arguments: list[Any]) -> Any:
        """The value that an allowed name makes of its arguments."""
        match arguments:
            case [StoredBytes(is_text=True) as text, coding] if (
                name == _ENCODE and self._short_text(coding) in _LATIN_1
            ):
                return StoredBytes(text.start, text.length, text.coding)
            case [] if name in _BYTES:
                return StoredBytes(self._opcodes.position, 0)
            case [kind, *_] if name == _DTYPE and (found := _NUMBERS.fullmatch(self._short_text(kind))):
                return _DataType(found[2], found[1] or "<")
            case [_Name(name=str(made)), *_] if name.endswith("._reconstruct") and made == _NDARRAY:
                return NumpyArray()
            case [_DataType() as kind, StoredBytes(is_text=False) as content] if name.endswith(".scalar"):
                return _fill(NumpyArray(), kind, [], content)
            case [StoredBytes(is_text=False) as content, _DataType() as kind, list(shape), *_] if name.endswith(
                "._frombuffer"
            ):
                return _fill(NumpyArray(), kind, shape, content)
        raise RefusedPickleError(f"{name!r} is not used as for bytes or an array of integers or booleans")

    def _build(self) -> None:
        """Set the state of an array or of a data type."""
        state = self._pop()
        target = self._top(object)
        match target, state:
            case _DataType(), [_, StoredBytes() as order, *_]:  # the rest is alignment, which does not matter here
                target.order = self._short_text(order)
                return
            case NumpyArray(content=None), [
                _,
                list(shape),
                _DataType() as kind,
                _,
                StoredBytes(is_text=False) as bytes_,
            ]:
                _fill(target, kind, shape, bytes_)
                return
        raise RefusedPickleError("a state is set on a value that is not an array of integers or booleans")


def _read(stored: StoredBytes, data: ReadAhead) -> bytes:
    try:
        return stored.read(data.source)
    except ValueError as error:
        raise RefusedPickleError(f"the string at byte {stored.start} cannot be read: {error}") from None


def _fill(array: NumpyArray, kind: _DataType, shape: list[Any], content: StoredBytes) -> NumpyArray:
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise RefusedPickleError("the shape of an array is not made of numbers")
    if sum(side != 1 for side in shape) > 1:
        raise RefusedPickleError(f"an array of shape {shape}: decoded pictures cannot be read, only encoded ones")
    array.kind, array.content = kind, content
    return array


_VALUE_IS_ARGUMENT = {
    *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_ACTIONS_WITH_ARGUMENT: dict[str, Callable[[PickleReader, Any], None]] = {
    "PROTO": lambda reader, version: None,
    "FRAME": lambda reader, length: None,
    "GLOBAL": lambda reader, name: reader._push_name(*name),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleReader._get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), PickleReader._put),
}
_ACTIONS: dict[str, Callable[[PickleReader], Any]] = {
    "MARK": lambda reader: reader._push(_MARK),
    "POP": PickleReader._pop,
    "NONE": lambda reader: reader._push(None),
    "NEWTRUE": lambda reader: reader._push(True),
    "NEWFALSE": lambda reader: reader._push(False),
    "EMPTY_LIST": lambda reader: reader._push([]),
    "EMPTY_TUPLE": lambda reader: reader._push([]),
    "LIST": lambda reader: reader._push(reader._pop_to_mark()),
    "TUPLE": lambda reader: reader._push(reader._pop_to_mark()),
    "TUPLE1": lambda reader: reader._push(reader._pop_many(1)),
    "TUPLE2": lambda reader: reader._push(reader._pop_many(2)),
    "TUPLE3": lambda reader: reader._push(reader._pop_many(3)),
    "APPEND": PickleReader._append,
    "APPENDS": PickleReader._extend,
    "MEMOIZE": lambda reader: reader._put(len(reader._memo)),
    "STACK_GLOBAL": PickleReader._name_of_stack,
    "REDUCE": PickleReader._reduce,
    "BUILD": PickleReader._build,
}
_ALLOWED_OPCODES = _VALUE_IS_ARGUMENT | _ACTIONS_WITH_ARGUMENT.keys() | _ACTIONS.keys()
