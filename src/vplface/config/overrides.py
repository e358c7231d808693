"""Changes to a raw recipe: ``key=value`` overrides, and the merging of recipes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vplface.config.registry import NAMED_SECTIONS
from vplface.config.validation import abbreviated
from vplface.errors import DataError, UsageError
from vplface.strict_yaml import DEEPEST, parse_yaml, plain


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``raw`` with ``key=value`` overrides applied.

    Raises:
        UsageError: if an override is not of the form key=value, or its key leads into a value that is neither a mapping
            nor a list.
    """
    changed: dict[str, Any] = _copied(raw)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"{abbreviated(override)} is not of the form key=value, e.g. optimizer.lr=0.05")
        value = _parse_value(key, text)
        container: Any = changed
        *parents, last = key.split(".")
        if len(parents) >= DEEPEST:
            raise UsageError(f"the key of {abbreviated(override)} has more than {DEEPEST} parts")
        for part in parents:
            container = _enter(container, part, key)
        if isinstance(container, list):
            container[_index(container, last, key)] = value
        else:
            container[last] = value
    return changed


def _parse_value(key: str, text: str) -> Any:
    """The value after the equals sign: YAML for a list, a mapping or text in quotes, else a plain value."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        bare = text.strip()
        value = plain(bare)
        return text if isinstance(value, str) else value
    try:
        return parse_yaml(text, f"the value of {key!r}")
    except DataError as error:
        raise UsageError(f"{error}; put text that begins with this character in quotes: {key}='\"TEXT\"'") from error


def overlay(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` updated by nested ``changes``; a value that is not a mapping replaces the earlier one.

    null removes a section. Where ``changes`` choose another name, such as another margin, the options
    of the first are dropped.
    """
    result = dict(raw)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, Mapping) and value is None:
            del result[key]
        elif isinstance(below, Mapping) and isinstance(value, Mapping) and not _chooses_another(key, below, value):
            result[key] = overlay(below, value)
        else:
            result[key] = value
    return result


def _chooses_another(key: str, below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return key in NAMED_SECTIONS and "name" in value and value["name"] != below.get("name", value["name"])


def _copied(value: Any) -> Any:
    """A deep copy of mappings and lists, in which a container with a YAML alias is no longer shared."""
    if isinstance(value, Mapping):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list) else value


def _enter(container: Any, part: str, key: str) -> Any:
    if isinstance(container, list):
        return container[_index(container, part, key)]
    if container.get(part) is None:
        container[part] = {}
    if not isinstance(container[part], dict | list):
        raise UsageError(f"cannot set {key!r}: {part!r} holds the value {abbreviated(container[part])}")
    return container[part]


def _index(container: list[Any], part: str, key: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(container):
        raise UsageError(f"cannot set {key!r}: {part!r} is not an index in 0..{len(container) - 1}")
    return int(part)
