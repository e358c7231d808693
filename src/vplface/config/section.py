"""The base class of the sections of a recipe, which converts raw values to the types of its keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pydantic import BaseModel, ConfigDict, model_validator

from vplface.config.conversion import as_expected
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
    """The base class of sections: raw values are converted, and unknown keys are refused with a suggestion.

    pydantic's ``extra="forbid"`` refuses them too, but its error does not hold the keys that a suggestion needs.
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
