"""A section of a recipe: what was written becomes what is expected there, by the types of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from vplface.paths import at_home
from vplface.strict_yaml import number, written


class Section(BaseModel):
    """Keys with types. A number that is written where text is expected is that text, and the other way round.

    ``~`` and ``~NAME`` at the start of a path are home folders.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_expected(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        fields = cls.model_fields
        return {
            key: as_expected(fields[key].annotation, given) if key in fields else given for key, given in value.items()
        }


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
