"""Choices by name in a recipe: margins, samplers, kinds of memory and terms, with their options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from vplface import bounds
from vplface.config.conversion import as_expected
from vplface.config.durations import Duration, read_duration
from vplface.config.validation import abbreviated, dotted, first_fault, validate_type
from vplface.data.samplers import SAMPLERS
from vplface.margins import MARGINS
from vplface.prototypes.memories import MEMORIES
from vplface.suggest import did_you_mean_or_known
from vplface.terms import TERMS, Term

_LARGEST = {"size": bounds.SIZE, "bank": bounds.SIZE, "count": bounds.EACH, "per_class": bounds.BATCH}
"""Bounds of options that are sizes or counts; for all other numbers the bound is ``bounds.LARGEST``."""
_MAY_BE_INFINITE = ("whisker",)


def dataclass_of(section: str, kind: type, options: Mapping[str, Any]) -> object:
    """A dataclass from raw values, converted to the types of its fields (YAML reads 1e-2 as text).

    Args:
        section: the key that holds the options, for messages.
        kind: the dataclass.
        options: values by field, all of them known.

    Raises:
        ValueError: naming the option.
    """
    hints = get_type_hints(kind)
    options = {key: as_expected(hints[key], value) for key, value in options.items()}
    for key, value in options.items():
        largest = _LARGEST.get(key, bounds.LARGEST)
        infinite = key in _MAY_BE_INFINITE and value == math.inf
        if isinstance(value, int | float) and not infinite and not -largest <= value <= largest:
            raise ValueError(f"{section}.{key} must be at most {largest:,}, got {abbreviated(value)}")
    try:
        return validate_type(kind, options)
    except ValidationError as error:
        location = error.errors()[0]["loc"]
        place = f"{section}.{dotted(location)}: " if location else ""
        raise ValueError(f"{place}{first_fault(error)}") from error


class NamedChoice:
    """A choice among dataclasses, written as ``{name: NAME, option: value, ...}`` or, with all defaults, as NAME.

    Args:
        section: the key that holds the choice, for messages.
        kinds: the dataclasses by name.
        default: the name that is used if none is given.
    """

    def __init__(self, section: str, kinds: Mapping[str, type], default: str) -> None:
        self.section, self.kinds, self.default = section, kinds, default

    def read(self, value: object) -> object:
        """The chosen dataclass; an instance of one is returned as it is.

        Raises:
            ValueError: naming the section, and the option or the unknown name.
        """
        if type(value) in self.kinds.values():
            return value
        if not isinstance(value, str | Mapping):
            raise ValueError(f"{self.section} must be a name, or a name and options; known: {', '.join(self.kinds)}")
        options = {"name": value} if isinstance(value, str) else dict(value)
        name = options.pop("name", self.default)
        if not isinstance(name, str) or name not in self.kinds:
            hint = did_you_mean_or_known(str(name), self.kinds)
            raise ValueError(f"{self.section}.name {abbreviated(name)} is unknown{hint}")
        known = [field.name for field in dataclasses.fields(self.kinds[name])]
        for key in options:
            if key not in known:
                hint = did_you_mean_or_known(str(key), known) if known else ", which has none"
                raise ValueError(f"{self.section}.{key} is not an option of {name}{hint}")
        return dataclass_of(self.section, self.kinds[name], options)

    def write(self, value: object) -> dict[str, Any]:
        """The mapping that ``read`` turns into ``value``."""
        return {"name": next(name for name, kind in self.kinds.items() if type(value) is kind), **vars(value)}


@dataclasses.dataclass(frozen=True)
class ScheduledTerm:
    """A term whose start is a duration, such as ``2 epochs``.

    Attributes:
        term: the term; its own start does not count.
        start: when it starts.
    """

    term: Any
    start: Duration

    def resolve(self, steps_per_epoch: int) -> Term:
        """The term, with its start in steps."""
        term: Term = dataclasses.replace(self.term, start=self.start.steps(steps_per_epoch))
        return term


_MARGIN = NamedChoice("margin", MARGINS, "arcface")
_SAMPLER = NamedChoice("sampler", SAMPLERS, "shuffled")
_MEMORY = NamedChoice("memory", MEMORIES, "last")
_TERM = NamedChoice("terms", TERMS, "")

NAMED_SECTIONS = (_MARGIN.section, _SAMPLER.section, _MEMORY.section)
"""Keys that hold a name and the options of that name alone."""


def _read_term(value: object) -> object:
    if isinstance(value, ScheduledTerm):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("start"), str):
        start = read_duration(value["start"])
        return ScheduledTerm(_TERM.read({**value, "start": 0}), start)
    return _TERM.read(value)


def _write_term(value: Any) -> dict[str, Any]:
    if isinstance(value, ScheduledTerm):
        return {**_TERM.write(value.term), "start": str(value.start)}
    return _TERM.write(value)


MarginField = Annotated[Any, BeforeValidator(_MARGIN.read), PlainSerializer(_MARGIN.write)]
SamplerField = Annotated[Any, BeforeValidator(_SAMPLER.read), PlainSerializer(_SAMPLER.write)]
MemoryField = Annotated[Any, BeforeValidator(_MEMORY.read), PlainSerializer(_MEMORY.write)]
TermField = Annotated[Any, BeforeValidator(_read_term), PlainSerializer(_write_term)]
