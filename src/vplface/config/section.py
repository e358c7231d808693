"""The base class of the sections of a recipe, which converts raw values to the types of its keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from vplface.paths import at_home
from vplface.strict_yaml import number, written
from vplface.suggest import did_you_mean_or_known


class UnknownKeyError(ValueError):
    """A key that a section does not have.

    Attributes:
        key: the key.
        suggestion: the end of the message: the most similar known key, or all of them.
    """

    def __init__(self, key: object, known: Iterable[str]) -> None:
        self.key = key
        self.suggestion = did_you_mean_or_known(str(key), known)
        super().__init__(f"unknown key {key!r}{self.suggestion}")


def require_known_keys(given: Iterable[object], known: Collection[str]) -> None:
    """Raise UnknownKeyError for the first given key that is not known."""
    for key in given:
        if key not in known:
            raise UnknownKeyError(key, known)


class Section(BaseModel):
    """Keys with types. A number that is written where text is expected is that text, and the other way round.

    ``~`` and ``~NAME`` at the start of a path are home folders. An unknown key is refused with a suggestion, for which
    pydantic's ``extra="forbid"`` has no place.
    """

    model_config = ConfigDict(
        frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        require_known_keys(value, cls.model_fields)
        return {key: as_expected(cls.model_fields[key].annotation, given) for key, given in value.items()}


def as_expected(annotation: Any, value: object) -> object:
    """A raw value, converted where the type that is expected and the one that YAML gave it differ.

    A value that does not fit stays, or becomes text that does not fit either: the validation that follows refuses it.

    Args:
        annotation: the type that is expected.
        value: from YAML, JSON or Python.
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
    """A raw value where the type that is expected is not known: text that YAML 1.2 takes for a number becomes one."""
    if isinstance(value, list):
        return [as_number(each) for each in value]
    if not isinstance(value, str):
        return value
    if value in ("True", "False"):
        return value == "True"
    found = number(value)
    return value if found is None else found


def _kinds(annotation: Any) -> dict[Any, Any]:
    """The types of a union, without what annotates them; of a list the key is ``list``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind: whole for part in get_args(annotation) for kind, whole in _kinds(part).items()}
    return {} if annotation is NoneType else {origin or annotation: annotation}
