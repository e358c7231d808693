"""What a Python file assigns to ``config``, read from its syntax tree. Nothing of the file is run or imported."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vplface.errors import ConfigError, DataError
from vplface.reading import TEXT_LIMIT, read_bytes

LARGEST_FILE = 256 * 1024
"""Bytes. Configurations have a thousand or two."""

_LARGEST_INTEGER = 2**63 - 1
_LARGEST_EXPONENT = 64
_MOST_VALUES = 10_000
"""That keys take over from other keys, in one file."""
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_KINDS: dict[type[ast.AST], str] = {
    ast.Call: "a call",
    ast.Lambda: "a function",
    ast.FunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.Import: "an import",
    ast.ImportFrom: "an import",
    ast.JoinedStr: "a formatted string",
    ast.ListComp: "a comprehension",
    ast.AugAssign: "a change in place",
    ast.Delete: "a deletion",
    ast.If: "an if",
    ast.IfExp: "an if",
    ast.For: "a loop",
    ast.While: "a loop",
    ast.With: "a with",
    ast.Try: "a try",
}


@dataclass(frozen=True)
class Assigned:
    """The value of a key.

    Attributes:
        value: of str, int, float, bool, None, and tuples, lists and dicts of them.
        where: file and line.
    """

    value: Any
    where: str


@dataclass(frozen=True)
class NotRead:
    """What would have to be run to be known.

    Attributes:
        why: what stands there.
        where: file and line.
    """

    why: str
    where: str


@dataclass
class Assignments:
    """The keys of ``config``.

    Attributes:
        keys: what is known of each, in the order in which they appear.
        statements: lines that were not followed, whatever they do.
    """

    keys: dict[str, Assigned | NotRead] = field(default_factory=dict)
    statements: list[NotRead] = field(default_factory=list)


class _NotALiteral(Exception):  # noqa: N818 - it is an answer
    """The message says what stands there."""


def read_assignments(path: Path) -> Assignments:
    """The keys that ``config.KEY = VALUE``, ``config["KEY"] = VALUE`` and ``config = edict(...)`` give values to.

    A value is a literal, a tuple, list or dict of values, another key (``config.num_epoch``), or + - * / // % ** of
    numbers. A key that is assigned in any other way, or inside an if, a loop or a function, is not read, even where an
    earlier line had given it a value.

    Raises:
        ConfigError: if the file cannot be read, is too large, is not Python (with the line), or assigns no key.
    """
    try:
        source = read_bytes(path, TEXT_LIMIT)
    except DataError as error:
        raise ConfigError(str(error)) from error
    if len(source) > LARGEST_FILE:
        raise ConfigError(f"{path}: more than {LARGEST_FILE // 1024} KiB; that is no configuration")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in Windows paths
            tree = ast.parse(source)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ConfigError(f"{path}{line}: not Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: not Python that can be read: {error or 'nested too deep'}") from error
    found = _Reader(printable(path.name)).read(tree)
    if not found.keys:
        raise ConfigError(f"{path}: no configuration: no line is of the form config.network = 'r50'")
    return found


def printable(text: str) -> str:
    """The text, with what is no character to look at as an escape, so that it stays on its line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.found = Assignments()
        self.makers = {"EasyDict", "edict", "dict"}
        self.values = 0

    def read(self, tree: ast.Module) -> Assignments:
        for statement in tree.body:
            self.statement(statement)
        return self.found

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.ImportFrom(module="easydict", names=names):
                self.makers.update(name.asname or name.name for name in names)
            case ast.Import(names=[ast.alias(name="easydict")]):
                pass
            case ast.Assign(targets=targets, value=value) if all(map(_is_place, targets)):
                for target in targets:
                    self.assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value) if _is_place(target):
                self.assign(target, value)
            case _:
                self.give_up(node)

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        key = _key(target)
        if key is not None:
            known = self.known(value, target)  # which may be of what the key has been
            self.found.keys.pop(key, None)
            self.found.keys[key] = known
            return
        self.found.keys.clear()  # config = ...
        match value:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[*made], keywords=words) if (
                name in self.makers and all(isinstance(part, ast.Dict) for part in made)
            ):
                for part in made:
                    assert isinstance(part, ast.Dict)
                    self.entries(part)
                for word in words:
                    if word.arg is None:
                        self.give_up(word.value)
                    else:
                        self.found.keys[word.arg] = self.known(word.value, word)
            case ast.Dict():
                self.entries(value)
            case _:
                self.give_up(value)

    def entries(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier():
                self.found.keys[key.value] = self.known(value, value)
            else:
                self.give_up(value)

    def known(self, value: ast.expr, place: ast.AST) -> Assigned | NotRead:
        where = self.where(place)
        try:
            return Assigned(self.value(value), where)
        except _NotALiteral as said:
            return NotRead(str(said), where)
        except RecursionError:
            return NotRead("nested too deep", where)

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | str() | None):
                return node.value
            case ast.Constant(value=int() | float()):
                return _number(node.value)
            case ast.Tuple(elts=parts):
                return tuple(self.value(part) for part in parts)
            case ast.List(elts=parts):
                return [self.value(part) for part in parts]
            case ast.Dict(keys=keys, values=values):
                return {_entry(key): self.value(value) for key, value in zip(keys, values, strict=True)}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self.value(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return _number(self.value(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _computed(_ARITHMETIC[type(op)], _number(self.value(left)), _number(self.value(right)))
            case ast.Attribute() | ast.Subscript() if (key := _key(node)) is not None:
                known = self.found.keys.get(key)
                if isinstance(known, Assigned):
                    return self.copied(known.value)
                raise _NotALiteral(f"config.{key}, which is not known here")
            case ast.Name(id=name):
                raise _NotALiteral(f"the name {name!r}")
            case _:
                raise _NotALiteral(_kind(node))

    def copied(self, value: Any) -> Any:
        """A value that another key has; copies, so that keys that refer to each other do not multiply without bound."""
        self.values += 1
        if self.values > _MOST_VALUES:
            raise _NotALiteral("more values than a configuration has")
        if isinstance(value, dict):
            return {key: self.copied(below) for key, below in value.items()}
        return type(value)(map(self.copied, value)) if isinstance(value, tuple | list) else value

    def give_up(self, node: ast.AST) -> None:
        """Name what is not followed, and the keys that it may change."""
        self.found.statements.append(NotRead(_kind(node), self.where(node)))
        for part in ast.walk(node):
            changed: ast.expr | None = None
            if isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load):
                changed = part
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
                changed = part.func.value  # config.val_targets.append(...)
            while isinstance(changed, ast.Attribute | ast.Subscript):
                key = _key(changed)
                if key is not None:
                    self.found.keys[key] = NotRead(_kind(node), self.where(part))
                changed = changed.value

    def where(self, node: Any) -> str:
        return f"{self.name}:{node.lineno}"


def _is_place(target: ast.expr) -> bool:
    return _key(target) is not None or (isinstance(target, ast.Name) and target.id == "config")


def _key(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="config"), attr=key):
            return key
        case ast.Subscript(value=ast.Name(id="config"), slice=ast.Constant(value=str() as key)) if key.isidentifier():
            return key
    return None


def _entry(key: ast.expr | None) -> Any:
    if isinstance(key, ast.Constant) and isinstance(key.value, bool | int | float | str | None):
        return key.value
    raise _NotALiteral("a dict whose keys are no literals")


def _computed(operation: Callable[[Any, Any], Any], left: float, right: float) -> float:
    if operation is operator.pow and abs(right) > _LARGEST_EXPONENT:
        raise _NotALiteral("a very large power")
    try:
        return _number(operation(left, right))
    except ArithmeticError as error:
        raise _NotALiteral(f"arithmetic that fails ({error})") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotALiteral("arithmetic of something that is no number")
    if abs(value) > _LARGEST_INTEGER if isinstance(value, int) else not math.isfinite(value):
        raise _NotALiteral("a number that is too large")
    return value


def _kind(node: ast.AST) -> str:
    return _KINDS.get(type(node), "something that is no literal")
