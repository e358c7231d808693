"""The section ``variational`` of a recipe, with lifetimes and starts that are lengths or rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer

from vplface.config.durations import Duration, read_duration
from vplface.config.registry import MemoryField, dataclass_of
from vplface.config.section import Section
from vplface.prototypes import DriftStartRule, LastFeature, Variational, covering
from vplface.suggest import did_you_mean_or_known


@dataclasses.dataclass(frozen=True)
class LifetimeTarget:
    """Δt as a target; the shorter of the two where both are given.

    Attributes:
        coverage: the smallest Δt that is expected to keep this share of the classes alive.
        drift: the largest Δt over which features move by no more than this share of the distance between two pictures
            of a class, decided when injection begins; see ``DriftMonitor``.
    """

    coverage: float | None = None
    drift: float | None = None

    def __post_init__(self) -> None:
        if self.coverage is None and self.drift is None:
            raise ValueError("a target needs a coverage, a drift, or both")
        if self.coverage is not None and not 0.0 < self.coverage < 1.0:
            raise ValueError(f"coverage must lie in (0, 1), got {self.coverage}")
        if self.drift is not None and not self.drift > 0.0:
            raise ValueError(f"drift must be positive, got {self.drift}")


class DurationOrRule:
    """A duration, or a rule that finds it, written as a mapping of the fields of a dataclass.

    Args:
        section: the key that holds it, for messages.
        rule: the dataclass.
        named: rules that are written as one word.
    """

    def __init__(self, section: str, rule: type, named: Mapping[str, Any]) -> None:
        self.section, self.rule, self.named = section, rule, named

    def read(self, value: object) -> object:
        """The duration or the rule; an instance of one is returned as it is.

        Raises:
            ValueError: naming the section and the key.
        """
        if isinstance(value, str) and value in self.named:
            return self.named[value]
        if isinstance(value, Mapping):
            known = [field.name for field in dataclasses.fields(self.rule)]
            for key, number in value.items():
                if key not in known:
                    raise ValueError(f"{self.section}.{key} is unknown{did_you_mean_or_known(str(key), known)}")
                if isinstance(number, bool):
                    raise ValueError(f"{self.section}.{key} must be a number, got {number!r}")
            return dataclass_of(self.section, self.rule, value)
        if isinstance(value, self.rule):
            return value
        if not isinstance(value, Duration | int | float | str) or isinstance(value, bool):
            raise ValueError(f"{self.section} must be a number of steps or epochs, or a rule")
        return read_duration(value)

    def write(self, value: Any) -> Any:
        """The value that ``read`` turns into ``value``."""
        return str(value) if isinstance(value, Duration) else dataclasses.asdict(value)


_LIFETIME = DurationOrRule("delta_t", LifetimeTarget, {})
_START = DurationOrRule("start", DriftStartRule, {"auto": DriftStartRule()})
_LifetimeField = Annotated[Any, BeforeValidator(_LIFETIME.read), PlainSerializer(_LIFETIME.write)]
_StartField = Annotated[Any, BeforeValidator(_START.read), PlainSerializer(_START.write)]


class VariationalConfig(Section, BaseModel):
    """``vplface.Variational`` with its lifetime and start in steps, in epochs or as rules, and the momentum encoder."""

    lam: float = Field(default=0.15, ge=0.0, le=1.0)
    delta_t: _LifetimeField = Duration(1, "epochs")
    start: _StartField = Duration(0)
    renormalise: bool = True
    memory: MemoryField = LastFeature()
    momentum: float | None = Field(default=None, gt=0.0, lt=1.0)

    @property
    def lifetime_drift(self) -> float | None:
        """The bound on drift that decides Δt, if there is one."""
        return self.delta_t.drift if isinstance(self.delta_t, LifetimeTarget) else None

    def start_rule(self, steps_per_epoch: int) -> DriftStartRule | int:
        """When injection begins: a rule, or a step."""
        return self.start if isinstance(self.start, DriftStartRule) else int(self.start.steps(steps_per_epoch))

    def resolve(self, steps_per_epoch: int, class_sizes: Int[np.ndarray, " classes"], batch_size: int) -> Variational:
        """The hyper-parameters in steps; those that drift decides during training are left open.

        Args:
            steps_per_epoch: optimiser steps.
            class_sizes: pictures per class.
            batch_size: B, over all ranks.

        Raises:
            ValueError: if a coverage cannot be reached.
        """
        delta_t: int | None
        if isinstance(self.delta_t, Duration):
            delta_t = max(self.delta_t.steps(steps_per_epoch), 1)
        else:
            target = self.delta_t.coverage
            delta_t = None if target is None else covering(class_sizes, batch_size, target)
        start = self.start_rule(steps_per_epoch)
        begins: int | Literal["auto"] = "auto"
        if isinstance(start, int) and self.lifetime_drift is None:
            begins = start
        return Variational(self.lam, delta_t, begins, self.renormalise, self.memory)
