"""Folds of people: the section ``fold`` of a recipe, and ``folds`` of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from vplface import bounds
from vplface.config.fields import Seed
from vplface.config.section import Section


class PeopleList(Section):
    """A list of people, or one half of it, divided as ``half`` of an evaluation set divides the same people."""

    people: Path
    half: Literal["first", "second"] | None = None
    half_seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        return {"people": value} if isinstance(value, str | Path) else value


def _as_lists(value: object) -> object:
    return [value] if isinstance(value, str | Path | Mapping) else value


class FoldsConfig(Section):
    """A division of the people into folds, by a hash of their names."""

    count: int = Field(ge=2, le=bounds.EACH)
    seed: Seed = 0
    exclude: Annotated[list[PeopleList], BeforeValidator(_as_lists)] = Field(default=[])


class FoldConfig(FoldsConfig):
    """One of the folds: a run tests its people and trains on all others."""

    number: int = Field(ge=1, le=bounds.EACH)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> FoldConfig:
        if self.number > self.count:
            raise ValueError(f"number must be in 1..{self.count}, the count of folds, got {self.number}")
        return self
