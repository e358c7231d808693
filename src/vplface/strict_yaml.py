"""Parser of untrusted YAML: one document of bounded depth, size and time, without duplicate keys.

A plain scalar becomes a number, a boolean or null only in the form that :func:`to_yaml` writes: ``16``, ``0.5``,
``true``, ``null``. Other scalars stay text: ``007``, ``1e3``, ``2026-11-30``, ``no``. Where a number is expected,
:func:`number` converts the text. Keys of mappings are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from vplface.errors import DataError
from vplface.reading import MEBIBYTE, read_text

Scalar: TypeAlias = str | int | float | bool | None

LIMIT = MEBIBYTE
"""Longest text, in bytes. Recipes have a few thousand."""
MOST_VALUES = 50_000
"""Limit of keys and values, counting each use of an alias; long texts count once per 100 characters."""
DEEPEST = 32
"""Limit of nesting of lists and mappings."""

_WORDS: dict[str, bool | None] = {
    "true": True,
    "false": False,
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_INTEGER = re.compile(r"-?[1-9][0-9]{0,19}|0")
_DECIMAL = re.compile(r"-?[0-9]{1,20}\.[0-9]{1,20}(e[+-][0-9]{1,3})?")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(e[-+]?[0-9]+)?", re.IGNORECASE | re.ASCII)
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_NOT_FINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_LONGEST_NUMBER = 64
_PREFIX = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}
_MERGE = "<<"
_SHOWN = 60
"""Number of characters of a text shown in errors."""


def plain(text: str) -> Scalar:
    """Value of an unquoted scalar: the value that :func:`written` writes as this text, else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and written(float(text)) == text:
        return float(text)
    return text


def written(value: Scalar) -> str:
    """Text of a scalar, the inverse of :func:`plain`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def number(text: str) -> int | float | None:
    """Parse a number as YAML 1.2 does: 7 for ``007``, 1000.0 for ``1e3``; None if the text is not a number."""
    if len(text) > _LONGEST_NUMBER:
        return None
    if text.lower() in _NOT_FINITE:
        return _NOT_FINITE[text.lower()]
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML to dicts with text keys, lists, and scalars as :func:`plain` returns them.

    Args:
        text: one document.
        where: its origin, for errors.

    Raises:
        DataError: the text is not YAML, holds several documents, a duplicate key, a key that is not a scalar, an
            unknown tag or an alias inside its own anchor, or exceeds the bounds; the line is named.
    """
    if len(text) > LIMIT:
        raise DataError(f"{where}: longer than {LIMIT // MEBIBYTE} MiB, the limit for YAML")
    try:
        return _Document(where).read(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.reader.ReaderError as error:
        number_of_line, code = text.count("\n", 0, error.position) + 1, f"U+{error.character:04X}"
        raise DataError(f"{where}, line {number_of_line}: not valid YAML: character {code} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise DataError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # numbers in directives and escapes
        raise DataError(f"{where}: not valid YAML: {error}") from error


def read_yaml(path: Path | str) -> Any:
    """The value of a file of YAML; raises DataError as ``reading.read_text`` and :func:`parse_yaml`."""
    return parse_yaml(read_text(path, limit=LIMIT), str(path))


def to_yaml(value: Any, *, flow: bool = False) -> str:
    """Dicts, lists and scalars as YAML, which :func:`parse_yaml` reads as the same values.

    Args:
        value: the value to write.
        flow: on one line.
    """
    width = math.inf if flow else 80
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)
    return text.removesuffix("\n").removesuffix("\n...") if flow else text


@dataclass
class _Open:
    """A list or a mapping that is not complete yet."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    size: int = 1
    key: str | None = None
    merges: bool = False
    lines: dict[str, int] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)


class _Document:
    """Builds a value from events, without recursion."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.open: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int] | None] = {}
        self.root: Any = None
        self.size = self.documents = self.line = 0

    def read(self, events: Iterable[yaml.Event]) -> Any:
        for event in events:
            assert event.start_mark is not None
            self.line = event.start_mark.line + 1
            match event:
                case yaml.DocumentStartEvent():
                    self.documents += 1
                    if self.documents > 1:
                        raise self.error("a second document begins; one is expected")
                case yaml.ScalarEvent():
                    self.scalar(event)
                case yaml.AliasEvent():
                    self.alias(event.anchor or "")
                case yaml.SequenceStartEvent():
                    self.start([], "seq", event)
                case yaml.MappingStartEvent():
                    self.start({}, "map", event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self.end()
        return self.root

    def error(self, text: str) -> DataError:
        return DataError(f"{self.where}, line {self.line}: {text}")

    def unknown_tag(self, tag: str) -> DataError:
        return self.error(f"the tag {tag.replace(_PREFIX, '!!')[:_SHOWN]!r} is not known")

    def scalar(self, event: yaml.ScalarEvent) -> None:
        text, bare = event.value, event.style is None
        if "\0" in text or re.search("[\ud800-\udc7f\udd00-\udfff]", text):
            raise self.error("a text contains \\0 or a lone surrogate, which is not a character")
        size = 1 + len(text) // 100
        value = self.typed(text, event.tag) if event.tag else plain(text) if bare else text
        if self.expects_key():
            self.grow(size)
            self.key(text, merge=bare and text == _MERGE and not event.tag)
        else:
            self.add(value, size)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, size

    def typed(self, text: str, tag: str) -> Scalar:
        name = tag.removeprefix(_PREFIX)
        if name in ("!", "str"):
            return text
        if name not in _TYPES:
            raise self.unknown_tag(tag)
        value = plain(text)
        if isinstance(value, str) and (found := number(text)) is not None:
            value = found
        if type(value) not in _TYPES[name]:
            raise self.error(f"{text[:_SHOWN]!r} is not a valid !!{name}")
        return value

    def alias(self, anchor: str) -> None:
        if anchor not in self.anchors:
            raise self.error(f"the alias *{anchor[:_SHOWN]} has no anchor before it")
        found = self.anchors[anchor]
        if found is None:
            raise self.error(f"the alias *{anchor[:_SHOWN]} refers to itself")
        value, size = found
        if self.expects_key():
            if isinstance(value, dict | list):
                raise self.error("a key must be a scalar, not a list or a mapping")
            self.grow(size)
            self.key(written(value), merge=False)
        else:
            self.add(value, size)

    def start(self, value: dict[str, Any] | list[Any], name: str, event: Any) -> None:
        if event.tag not in (None, "!", _PREFIX + name):
            raise self.unknown_tag(event.tag)
        if self.expects_key():
            raise self.error("a key must be a scalar, not a list or a mapping")
        if len(self.open) == DEEPEST:
            raise self.error(f"nested deeper than {DEEPEST} levels")
        self.grow(1)
        self.open.append(_Open(value, event.anchor))
        if event.anchor is not None:
            self.anchors[event.anchor] = None

    def end(self) -> None:
        done = self.open.pop()
        if done.merged:
            assert isinstance(done.value, dict)
            own = dict(done.value)
            done.value.clear()
            for each in done.merged:
                done.value.update({key: value for key, value in each.items() if key not in done.value})
            done.value.update(own)
        if done.anchor is not None:
            self.anchors[done.anchor] = done.value, done.size
        self.insert(done.value, done.size)

    def expects_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, dict) and self.open[-1].key is None

    def key(self, text: str, *, merge: bool) -> None:
        mapping = self.open[-1]
        if not merge:
            if text in mapping.lines:
                raise self.error(f"the key {text[:_SHOWN]!r} is a duplicate of the one in line {mapping.lines[text]}")
            mapping.lines[text] = self.line
        mapping.key, mapping.merges = text, merge
        mapping.size += 1

    def grow(self, size: int) -> None:
        self.size += size
        if self.size > MOST_VALUES:
            raise self.error(f"more than {MOST_VALUES:,} values, counting each use of an alias")

    def add(self, value: Any, size: int) -> None:
        self.grow(size)
        self.insert(value, size)

    def insert(self, value: Any, size: int) -> None:
        """Insert a value of counted size into the innermost open list or mapping."""
        if not self.open:
            self.root = value
            return
        place = self.open[-1]
        place.size += size
        if isinstance(place.value, list):
            place.value.append(value)
            return
        key, place.key = place.key, None
        assert key is not None
        if place.merges:
            sources = value if isinstance(value, list) else [value]
            if not all(isinstance(source, dict) for source in sources):
                raise self.error("<< takes a mapping, or a list of mappings")
            place.merged += sources
        else:
            place.value[key] = value


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text which YAML 1.1 or :func:`plain` would parse as another type."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0] and tag == f"{_PREFIX}str" and not isinstance(plain(value), str):
            return f"{_PREFIX}null"
        return tag

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """Text with line ends between double quotes, where they are escaped: the other styles fold some of them."""
        style = '"' if re.search("[\n\r\x85\u2028\u2029]", data) else None
        return self.represent_scalar(f"{_PREFIX}str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)
