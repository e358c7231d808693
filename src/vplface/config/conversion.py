"""Conversion of raw values of a recipe to the types of its keys."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from vplface.paths import at_home
from vplface.strict_yaml import number, written


def as_expected(annotation: Any, value: object) -> object:
    """A raw value in the expected type, where YAML gave it another: a number for text, or text for a number.

    ``~`` and ``~NAME`` at the start of a path are replaced by home folders. A value that does not fit is returned
    unchanged, for the later validation to refuse.

    Args:
        annotation: the expected type.
        value: a value of YAML, JSON or Python.
    """
    kinds = _kinds(annotation)
    if isinstance(value, list) and list in kinds:
        (item,) = get_args(kinds[list])
        return [as_expected(item, each) for each in value]
    numbers, texts = not kinds.keys().isdisjoint({int, float}), not kinds.keys().isdisjoint({str, Path})
    if isinstance(value, bool):
        value = written(value) if (numbers or texts) and bool not in kinds else value
    elif isinstance(value, int | float):
        value = written(value) if texts and not numbers else value
    elif isinstance(value, str) and numbers and not texts:
        found = number(value.strip())
        value = value if found is None else found
    if Path in kinds and isinstance(value, str | Path):
        value = at_home(value)
    return value


def as_number(value: object) -> object:
    """A raw value of unknown type: text that is a number in YAML 1.2, or ``True`` or ``False``, is converted."""
    if isinstance(value, list):
        return [as_number(each) for each in value]
    if not isinstance(value, str):
        return value
    if value in ("True", "False"):
        return value == "True"
    found = number(value)
    return value if found is None else found


def _kinds(annotation: Any) -> dict[Any, Any]:
    """The members of a union by their origin (``list`` for ``list[int]``), without annotations and ``None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind: whole for part in get_args(annotation) for kind, whole in _kinds(part).items()}
    return {} if annotation is NoneType else {origin or annotation: annotation}
