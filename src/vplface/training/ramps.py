"""Numbers of a head that change along training, each a function of the step alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vplface.config import Config
from vplface.head import PrototypeHead


@dataclass(frozen=True)
class Ramp:
    """A straight line: a + (b − a)·(t − begin)/length, a before ``begin`` and b after ``begin`` + ``length`` steps.

    Attributes:
        first: a.
        last: b.
        begin: the step, counted from 0, from which the value changes.
        length: steps over which it does; 0 for at once.
    """

    first: float
    last: float
    begin: int
    length: int

    def value(self, step: int) -> float:
        """The value in a step, counted from 0."""
        if step >= self.begin + self.length:
            return self.last
        return self.first + (self.last - self.first) * max(step - self.begin, 0) / max(self.length, 1)


class Ramps:
    """The numbers of a margin, λ and the sample rate that change along training.

    Args:
        config: the run.
        per_epoch: steps of an epoch.

    Attributes:
        by_key: the ramps, by the dotted key of their number in the recipe.
    """

    def __init__(self, config: Config, per_epoch: int) -> None:
        self._margin: Any = config.margin
        last = {f"margin.{key}": value for key, value in vars(config.margin).items()}
        last |= {"sample_rate": config.sample_rate}
        if config.variational is not None:
            last["variational.lam"] = config.variational.lam
        self.by_key = {
            key: Ramp(ramp.first, last[key], ramp.after.steps(per_epoch), ramp.over.steps(per_epoch))
            for key, ramp in config.ramps.by_key()
        }

    def values(self, step: int) -> dict[str, float]:
        """The values in a step, counted from 0, by their key."""
        return {key: ramp.value(step) for key, ramp in self.by_key.items()}

    def apply(self, head: PrototypeHead, step: int) -> None:
        """Give a head the values of a step."""
        values = self.values(step)
        margin = {key.removeprefix("margin."): value for key, value in values.items() if key.startswith("margin.")}
        if margin:
            head.margin = dataclasses.replace(self._margin, **margin)
        if "variational.lam" in values and head.variational is not None:
            head.prototype_memory.variational = dataclasses.replace(head.variational, lam=values["variational.lam"])
        if "sample_rate" in values:
            head.sample_rate = values["sample_rate"]
