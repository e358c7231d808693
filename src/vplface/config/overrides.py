"""Changes to a raw recipe: ``key=value`` overrides, and recipes laid over one another."""

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
        UsageError: if an override is not of the form key=value, or walks into something that is no mapping or list.
    """
    merged: dict[str, Any] = _copied(raw)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"{abbreviated(override)} is not of the form key=value, e.g. optimizer.lr=0.05")
        value = _of_override(key, text)
        place: Any = merged
        *parents, last = key.split(".")
        if len(parents) >= DEEPEST:
            raise UsageError(f"the key of {abbreviated(override)} has more than {DEEPEST} parts")
        for part in parents:
            place = _enter(place, part, key)
        if isinstance(place, list):
            place[_index(place, last, key)] = value
        else:
            place[last] = value
    return merged


def _of_override(key: str, text: str) -> Any:
    """What stands behind the sign of equality: a list, a mapping or a text in quotes is YAML, all else as it stands."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        bare = text.strip()
        value = plain(bare)
        return text if isinstance(value, str) else value
    try:
        return parse_yaml(text, f"the value of {key!r}")
    except DataError as error:
        raise UsageError(f"{error}; of a text that begins so, write the whole in quotes: {key}='\"TEXT\"'") from error


def overlay(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with nested ``changes`` laid over it; a value that is not a mapping replaces what was there.

    null over a section removes it, so that it is as if it had never been written. Where another name is chosen the
    options of the first go with it: those of ArcFace are none of CosFace.
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
    chosen = key in NAMED_SECTIONS
    return chosen and "name" in value and value["name"] != below.get("name", value["name"])


def _copied(value: Any) -> Any:
    """The same values in containers of their own; what a YAML alias made one is two."""
    if isinstance(value, Mapping):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list) else value


def _enter(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise UsageError(f"cannot set {key!r}: {part!r} holds the value {abbreviated(place[part])}")
    return place[part]


def _index(place: list[Any], part: str, key: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(place):
        raise UsageError(f"cannot set {key!r}: {part!r} is not an index in 0..{len(place) - 1}")
    return int(part)
