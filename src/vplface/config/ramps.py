"""The section ``ramps`` of a recipe: numbers that change along training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from vplface.config.durations import Duration, DurationField
from vplface.config.section import Section
from vplface.margins import Margin
from vplface.suggest import did_you_mean_or_known


class RampConfig(Section, BaseModel):
    """A number that goes in a straight line from ``first`` to the value that the recipe gives it."""

    first: float
    over: DurationField
    after: DurationField = Duration(0)


class RampsConfig(Section):
    """Numbers of the sections ``margin`` and ``variational``, and ``sample_rate``, by their keys there."""

    margin: dict[str, RampConfig] = Field(default={})
    variational: dict[str, RampConfig] = Field(default={})
    sample_rate: RampConfig | None = None

    def by_key(self) -> Iterator[tuple[str, RampConfig]]:
        """Each ramp, with the dotted key of its number in the recipe."""
        for section in ("margin", "variational"):
            yield from ((f"{section}.{key}", ramp) for key, ramp in getattr(self, section).items())
        if self.sample_rate is not None:
            yield "sample_rate", self.sample_rate

    def first_margin(self, margin: Margin) -> Margin:
        """The margin before the first step.

        Raises:
            ValueError: naming the key, if it is not a number of this margin, or a value is out of range.
        """
        known = [key for key, value in vars(margin).items() if type(value) in (int, float)]
        _require_known(self.margin, "margin", known, type(margin).__name__)
        try:
            first: Margin = dataclasses.replace(  # type: ignore[type-var]  # margins of recipes are dataclasses
                margin, **{key: ramp.first for key, ramp in self.margin.items()}
            )
        except ValueError as error:
            raise ValueError(f"ramps.margin: {error}") from error
        return first

    def require_fit(self, margin: Margin, variational: Any) -> None:
        """Raise ValueError, naming the key, if a ramp is of a number that there is not, or begins out of range.

        Args:
            margin: of the run.
            variational: its section, or None.
        """
        self.first_margin(margin)
        _require_known(self.variational, "variational", [] if variational is None else ["lam"], "variational")
        for lam in self.variational.values():
            if not 0.0 <= lam.first <= 1.0:
                raise ValueError(f"ramps.variational.lam.first must lie in [0, 1], got {lam.first}")
        if self.sample_rate is not None and not 0.0 < self.sample_rate.first <= 1.0:
            raise ValueError(f"ramps.sample_rate.first must lie in (0, 1], got {self.sample_rate.first}")


def _require_known(ramps: Mapping[str, RampConfig], section: str, known: list[str], owner: str) -> None:
    for key in ramps:
        if key not in known:
            hint = did_you_mean_or_known(key, known) if known else ", which is switched off"
            raise ValueError(f"ramps.{section}.{key} is not a number of {owner} that can change{hint}")
