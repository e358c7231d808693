"""Figures (a value with its 95 % interval), figures of many metrics, and differences, as objects and as JSON."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from vplface.evaluation.bootstrap import interval as interval_of

Interval: TypeAlias = "tuple[float, float]"
"""Low and high end."""

_INTERVAL = "ci95"
_INTERVAL_OVER_SEEDS = "t_ci95"


class Stored(Mapping[str, Any]):
    """An object that can also be read as the JSON object that it is stored as: ``figure["value"]``."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The object in its JSON form."""

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())


@dataclass(frozen=True, eq=False)
class Figure(Stored):
    """The value of a metric.

    Attributes:
        value: a fraction, never percent; None where it could not be measured.
        interval: of 95 %; None without one.
        details: further stored entries, such as its ``"threshold"``, or the ``"reason"`` why there is no value.
        count: how many independent people are behind it; 0 if that is not known. It is not stored.
    """

    value: float | None
    interval: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0

    def resampled(self, replicates: Float[np.ndarray, " replicates"]) -> Figure:
        """The figure with the interval of its bootstrap replicates, see :mod:`vplface.evaluation.bootstrap`."""
        return replace(self, interval=interval_of(replicates, self.count))

    def to_json(self) -> dict[str, Any]:
        """The JSON object: value, interval, details."""
        return {"value": self.value, _INTERVAL: _as_list(self.interval), **self.details}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Figure:
        """Read back :meth:`to_json`; a value or an interval that is not of finite numbers counts as missing."""
        details = {key: value for key, value in stored.items() if key not in ("value", _INTERVAL)}
        return cls(finite(stored.get("value")), _interval(stored.get(_INTERVAL)), details)


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of some metrics, and the bootstrap replicates that their intervals are of.

    Attributes:
        of: the figure of each metric, by the key of the metric.
        replicates: of each metric that was resampled, by its key.
    """

    of: Mapping[str, Figure]
    replicates: Mapping[str, Float64[np.ndarray, " replicates"]] = field(default_factory=dict)

    def __or__(self, other: Figures) -> Figures:
        """These and the figures of other metrics."""
        return Figures({**self.of, **other.of}, {**self.replicates, **other.replicates})


@dataclass(frozen=True, eq=False)
class Difference(Stored):
    """The paired difference of two figures, second minus first.

    Attributes:
        value: of the difference; None if it is not known.
        interval: of 95 %, by the bootstrap; None without one.
        distinguishable: whether 0 lies outside all intervals that there are, and there is one by the bootstrap.
        mcnemar: for a share of pairs, McNemar's test: ``"only_first"``, ``"only_second"`` and ``"p"``.
        over_seeds: if it is a mean over seeds, the differences of the seeds.
    """

    value: float | None
    interval: Interval | None
    distinguishable: bool
    mcnemar: Mapping[str, Any] | None = None
    over_seeds: Seeds | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object: difference, interval, and the other fields that are known."""
        ends = _as_list(self.interval)
        if (seeds := self.over_seeds) is not None:
            stored = {"difference": self.value, "per_seed": list(seeds.per_seed), "seeds": len(seeds.per_seed)}
            stored |= {_INTERVAL: ends, "same_sign": seeds.same_sign}
            if seeds.interval is not None:
                stored[_INTERVAL_OVER_SEEDS] = _as_list(seeds.interval)
            return stored | {"distinguishable": self.distinguishable}
        stored = {"difference": self.value, _INTERVAL: ends, "distinguishable": self.distinguishable}
        return stored if self.mcnemar is None else stored | {"mcnemar": dict(self.mcnemar)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Difference:
        """Read back :meth:`to_json`; values of another type count as missing."""
        value, ends = finite(stored.get("difference")), _interval(stored.get(_INTERVAL))
        mcnemar = stored.get("mcnemar")
        seeds = None
        if isinstance(per_seed := stored.get("per_seed"), list):
            over_seeds = _interval(stored.get(_INTERVAL_OVER_SEEDS))
            seeds = Seeds(tuple(per_seed), stored.get("same_sign", 0), over_seeds)
        return cls(
            value,
            ends,
            stored.get("distinguishable", True) is not False,
            mcnemar if isinstance(mcnemar, Mapping) else None,
            seeds,
        )


@dataclass(frozen=True)
class Seeds:
    """The seeds over which a difference is averaged.

    Attributes:
        per_seed: the difference of each.
        same_sign: in how many it has the sign of the mean.
        interval: Student's, for the people tested; None with too few seeds.
    """

    per_seed: tuple[float, ...]
    same_sign: int
    interval: Interval | None = None


def finite(value: object) -> float | None:
    """The value if it is a finite number, else None; files may contain anything."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _interval(ends: object) -> Interval | None:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = map(finite, ends)
    return None if low is None or high is None else (low, high)


def _as_list(ends: Interval | None) -> list[float] | None:
    return None if ends is None else list(ends)
