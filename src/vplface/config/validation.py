"""Validation of raw values, with errors that name the origin, the key and the value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from vplface.config.section import UnknownKeyError
from vplface.errors import ConfigError
from vplface.suggest import did_you_mean

Model = TypeVar("Model", bound=BaseModel)

_LONGEST_VALUE = 100


def validate(model: type[Model], raw: Mapping[str, Any], origin: str) -> Model:
    """A model of raw values.

    Args:
        model: defines the keys.
        raw: the values.
        origin: the file or place of the values, for errors.

    Raises:
        ConfigError: naming the origin and the key, with a suggestion where the key or a choice is unknown.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_unknown_key(error) or _described(error)}") from error


def refuse_unknown_keys(model: type[BaseModel], raw: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError for a key that the model or one of its sections does not have.

    Missing keys and invalid values are accepted: other values may replace these before they are validated.
    """
    try:
        model.model_validate(raw)
    except ValidationError as error:
        if (message := _unknown_key(error)) is not None:
            raise ConfigError(f"{origin}: {message}") from error


def validate_type(kind: Any, value: object) -> Any:
    """A value as the given type; raises pydantic's ValidationError where it does not fit."""
    return TypeAdapter(kind).validate_python(value)


def first_fault(error: ValidationError) -> str:
    """The message of the first fault, with the faulty value unless that is a whole section or already named."""
    first = error.errors()[0]
    message, value = first["msg"].removeprefix("Value error, "), abbreviated(first["input"])
    whole_section = first["type"] == "missing" or isinstance(first["input"], Mapping)
    named = first["type"] == "value_error" and value in message
    return message if whole_section or named else f"{message}, got {value}"


def dotted(location: Iterable[object]) -> str:
    """A location of pydantic as a dotted key, ``data.train.0.path``."""
    return ".".join(map(str, location))


def abbreviated(value: object) -> str:
    """The ``repr`` of a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _unknown_key(error: ValidationError) -> str | None:
    """The message of the first unknown key, if there is one."""
    for fault in error.errors():
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, UnknownKeyError):
            return f"unknown key {dotted((*fault['loc'], cause.key))!r}{cause.suggestion}"
    return None


def _described(error: ValidationError) -> str:
    first = error.errors()[0]
    place = f"{dotted(first['loc'])}: " if first["loc"] else ""
    suggestion = ""
    if first["type"] == "literal_error":
        suggestion = did_you_mean(str(first["input"]), re.findall("'(.*?)'", first["ctx"]["expected"]))
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}{first_fault(error)}{suggestion}{more}"
