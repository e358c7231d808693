"""A recipe that was a configuration of another trainer, with what is to be known about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vplface.strict_yaml import to_yaml
from vplface.training.assignments import printable


@dataclass(frozen=True)
class Line:
    """A value of the recipe.

    Attributes:
        key: dotted.
        value: as YAML holds it.
        origin: the key and line it comes from.
    """

    key: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Remark:
    """Something to know about a key.

    Attributes:
        key: of the configuration, or of the recipe where it is to be filled in.
        where: file and line; empty where the configuration says nothing.
        text: what is to be known.
    """

    key: str
    where: str
    text: str

    def __str__(self) -> str:
        return printable(f"{self.key}{f' ({self.where})' if self.where else ''}: {self.text}")


@dataclass
class Translation:
    """A configuration of another trainer as a recipe.

    Attributes:
        source: name of the file.
        lines: of the recipe.
        to_fill_in: what the recipe has to be told, or has its default for until then.
        no_counterpart: keys that mean nothing here, and why.
        unknown: keys that the other trainer does not know either, and statements that were not followed.
        differences: what is written alike and means something else.
    """

    source: str
    lines: list[Line] = field(default_factory=list)
    to_fill_in: list[Remark] = field(default_factory=list)
    no_counterpart: list[Remark] = field(default_factory=list)
    unknown: list[Remark] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> dict[str, Any]:
        """What the YAML holds."""
        recipe: dict[str, Any] = {}
        for line in self.lines:
            section, _, key = line.key.rpartition(".")
            (recipe.setdefault(section, {}) if section else recipe)[key] = line.value
        return recipe

    def to_yaml(self) -> str:
        """The recipe, each value with its origin, below what is to be known about it."""
        text = [f"# From {self.source}, by vplface import-config."]
        for title, said in (
            ("To fill in", self.to_fill_in),
            ("Means something else there", self.differences),
            ("Without a counterpart here", self.no_counterpart),
            ("Unknown, left out", self.unknown),
        ):
            if said:
                text += ["#", f"# {title}:", *_comments(said)]
        section = ""
        for line in self.lines:
            parent, _, key = line.key.rpartition(".")
            if parent and parent != section:
                text.append(f"{parent}:")
            section = parent
            indent = "  " if parent else ""
            entries = (
                line.value if isinstance(line.value, list) and line.value and isinstance(line.value[0], dict) else []
            )
            value = "" if entries else f" {_flow(line.value)}"
            text.append(f"{indent}{key}:{value}  # {line.origin}")
            text += [f"{indent}  - {_flow(entry)}" for entry in entries]
        return "\n".join(text) + "\n"


def _comments(said: Iterable[object]) -> list[str]:
    return [
        line
        for remark in said
        for line in textwrap.wrap(
            str(remark), 116, initial_indent="#   ", subsequent_indent="#     ", break_long_words=False
        )
    ]


def _flow(value: Any) -> str:
    """YAML on one line."""
    return to_yaml(value, flow=True)
