"""The degradation of an evaluation set, ``degrade`` in a recipe: the name of a kind, or a kind with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from vplface.config.conversion import as_number
from vplface.config.registry import dataclass_of
from vplface.config.validation import abbreviated
from vplface.data.degrade import KINDS, Degradation
from vplface.suggest import did_you_mean_or_known

_OPTIONS = ("share", "seed", "probes")


def read_degradation(value: object) -> Degradation | None:
    """A degradation of raw values; None and a degradation are returned as they are.

    Args:
        value: the name of a kind, or a mapping of ``kind``, ``share``, ``seed``, ``probes`` and the strengths of the
            kind: a list of two numbers, or one number.

    Raises:
        ValueError: naming the key, with a suggestion where it or the kind is unknown.
    """
    if value is None or isinstance(value, Degradation):
        return value
    if not isinstance(value, str | Mapping):
        raise ValueError(f"must be a kind, or a kind and options; kinds: {', '.join(KINDS)}; got {abbreviated(value)}")
    options = {"kind": value} if isinstance(value, str) else dict(value)
    if "kind" not in options:
        raise ValueError(f"needs a kind: {', '.join(KINDS)}")
    name = options.pop("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"kind {abbreviated(name)} is unknown{did_you_mean_or_known(str(name), KINDS)}")
    kind = KINDS[name]
    known = [*(field.name for field in fields(kind)), *_OPTIONS]
    for key in options:
        if key not in known:
            raise ValueError(f"{key} is not an option of {name}; options: {', '.join(known)}")
    strengths = {key: _range(given) for key, given in options.items() if key not in _OPTIONS}
    of_set = {key: given for key, given in options.items() if key in _OPTIONS}
    found = dataclass_of("degrade", Degradation, {**of_set, "kind": dataclass_of("degrade", kind, strengths)})
    assert isinstance(found, Degradation)
    return found


def _range(value: object) -> object:
    """Both ends of a range; one number is both."""
    ends = [as_number(end) for end in value] if isinstance(value, list | tuple) else [as_number(value)] * 2
    return tuple(ends)


def _written(value: Degradation | None) -> dict[str, Any] | None:
    return None if value is None else value.to_dict()


DegradeField = Annotated[Any, BeforeValidator(read_degradation), PlainSerializer(_written)]
