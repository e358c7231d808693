"""Lengths of training, in optimiser steps or in epochs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

from vplface import bounds
from vplface.config.validation import abbreviated
from vplface.strict_yaml import number


@dataclass(frozen=True)
class Duration:
    """A length of training, in optimiser steps or in epochs.

    Attributes:
        amount: how many steps or epochs.
        unit: ``"steps"`` or ``"epochs"``.
    """

    amount: float
    unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        if not 0.0 <= self.amount <= bounds.LARGEST:
            raise ValueError(f"a duration must be 0 to {bounds.LARGEST:,} {self.unit}, got {self.amount:g}")
        object.__setattr__(self, "amount", float(self.amount))

    def steps(self, steps_per_epoch: int) -> int:
        """The length in steps, epochs rounded to whole steps."""
        return round(self.amount * (steps_per_epoch if self.unit == "epochs" else 1))

    def __str__(self) -> str:
        return f"{Decimal(repr(self.amount)).normalize():f} {self.unit}"


_WRITTEN = re.compile(r"\s*(\S+?)\s*(steps?|epochs?)?\s*")


def read_duration(value: object) -> Duration:
    """A duration from a recipe: a number of steps, or text such as ``"500 steps"`` or ``"3 epochs"``.

    Raises:
        ValueError: if the value is neither, or lies outside the range of a duration.
    """
    if isinstance(value, Duration):
        return value
    amount, unit = value, ""
    if isinstance(value, str) and (match := _WRITTEN.fullmatch(value)) is not None:
        amount, unit = number(match[1].replace("_", "")), match[2] or ""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise ValueError(
            f"{abbreviated(value)} is not a duration; write a number of steps (500) or of epochs (3 epochs)"
        )
    return Duration(amount, "epochs" if unit.startswith("epoch") else "steps")


DurationField = Annotated[Duration, BeforeValidator(read_duration), PlainSerializer(str)]
