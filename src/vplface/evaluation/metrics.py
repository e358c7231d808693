"""The metrics that evaluations give: name, label, direction and operating point of each, and the one list of them.

A figure is stored under the key of its metric: ``"accuracy"``, ``"tar@far=1e-3"``, ``"rank-5"``. Code that shows, sorts
or compares figures gets the meaning of a key from :meth:`Metric.parse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from vplface.evaluation.error_rates import area_figure, equal_error_figure
from vplface.evaluation.figure import Figure
from vplface.evaluation.roc_replicates import RocReplicate
from vplface.printable import SUPERSCRIPT

Rates: TypeAlias = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class MetricKind:
    """A metric without its operating point, such as TAR at FAR.

    Attributes:
        name: the key of its figures, or what the key begins with where the metric has a point.
        label: in running text and in the heads of wide tables; the point follows it.
        short: in the heads of narrow tables; the label if empty.
        lower_is_better: whether it is an error.
        point: what it is measured at: a rate such as a FAR (``name=1e-3``), a rank (``name-5``), or nothing.
        judges_pairs: whether it is a share of pairs, each classified correctly or not at the metric's own threshold.
        descriptive: whether it describes where errors come from; a model is then neither better nor worse by it.
        of_roc: for a metric of the whole ROC, which every verification gives, its figure by FAR, TAR and threshold of
            each point.
        of_replicate: the metric in a draw of people, for its interval; NaN where the draw does not give it.
    """

    name: str
    label: str
    short: str = ""
    lower_is_better: bool = False
    point: Literal["rate", "rank"] | None = None
    judges_pairs: bool = False
    descriptive: bool = False
    of_roc: Callable[[Rates, Rates, Rates], Figure] | None = None
    of_replicate: Callable[[RocReplicate], float] | None = None

    def at(self, point: float | None = None) -> Metric:
        """The metric at a rate, or at a rank; without a point for a metric that has none."""
        if (point is None) != (self.point is None):
            raise ValueError(f"{self.name} is measured at {f'a {self.point}' if self.point else 'no point'}")
        if point is None:
            return Metric(self.name, self)
        key = f"{self.name}-{int(point)}" if self.point == "rank" else f"{self.name}={far_name(point)}"
        return Metric(key, self, point)


@dataclass(frozen=True)
class Metric:
    """A metric at its operating point.

    Attributes:
        key: under which its figures are stored.
        kind: None for a key that this version does not know.
        point: the rate or the rank; None without one, or if the key holds no valid one.
    """

    key: str
    kind: MetricKind | None = None
    point: float | None = None

    @classmethod
    def parse(cls, key: str) -> Metric:
        """The metric whose figures are stored under a key; one of no kind if the key is not known."""
        for kind in METRICS:
            if kind.point is None and key == kind.name:
                return cls(key, kind)
            if kind.point == "rate" and key.startswith(f"{kind.name}="):
                return cls(key, kind, _rate(key.removeprefix(f"{kind.name}=")))
            if kind.point == "rank" and re.fullmatch(f"{kind.name}-[0-9]+", key):
                return cls(key, kind, int(key.removeprefix(f"{kind.name}-")))
        return cls(key)

    @property
    def label(self) -> str:
        """The name in running text: ``TAR at FAR 10⁻³``."""
        return self._with_point(self.kind.label, "-") if self.kind else self.key.replace("_", " ")

    @property
    def short(self) -> str:
        """The head of a narrow column: ``TAR 10⁻³``."""
        return self._with_point(self.kind.short, " ") if self.kind and self.kind.short else self.label

    @property
    def lower_is_better(self) -> bool:
        """Whether it is an error."""
        return self.kind is not None and self.kind.lower_is_better

    @property
    def judges_pairs(self) -> bool:
        """Whether it is a share of pairs, each classified correctly or not at the metric's own threshold."""
        return self.kind is not None and self.kind.judges_pairs

    @property
    def descriptive(self) -> bool:
        """Whether a model is neither better nor worse by it."""
        return self.kind is not None and self.kind.descriptive

    @property
    def far(self) -> float | None:
        """The false accept rate, if this is TAR at FAR."""
        return self.point if self.kind is TAR else None

    @property
    def order(self) -> tuple[int, float, str]:
        """The key to sort by: as listed in :data:`METRICS`, rates from loose to strict, ranks upwards, unknown last."""
        place = METRICS.index(self.kind) if self.kind else len(METRICS)
        point = self.point or 0.0
        return place, point if self.kind is RANK else -point, self.key

    def _with_point(self, label: str, before_rank: str) -> str:
        assert self.kind is not None
        if self.kind.point is None:
            return label
        if self.point is None:
            return self.key
        return f"{label} {rate_label(self.point)}" if self.kind.point == "rate" else f"{label}{before_rank}{self.point}"


ACCURACY = MetricKind("accuracy", "accuracy", "acc.", judges_pairs=True)
BEST_ACCURACY = MetricKind("accuracy@best_threshold", "accuracy at the best threshold", judges_pairs=True)
TAR = MetricKind("tar@far", "TAR at FAR", "TAR", point="rate")
FNMR = MetricKind("fnmr@fmr", "FNMR at FMR", point="rate", lower_is_better=True)
EER = MetricKind(
    "eer",
    "equal error rate",
    "EER",
    lower_is_better=True,
    of_roc=equal_error_figure,
    of_replicate=RocReplicate.eer,
)
AUC = MetricKind("auc", "area under the ROC", "AUC", of_roc=area_figure, of_replicate=RocReplicate.auc)
TPIR = MetricKind("tpir@fpir", "TPIR at FPIR", point="rate")
RANK = MetricKind("rank", "rank", "rank", point="rank")
TAIL = MetricKind("tail_both_poor@far", "both poor in the tail at FAR", "tail", point="rate", descriptive=True)
POOR_NORM = MetricKind("poor_norm", "norm of the poor pictures' mean", "poor norm", descriptive=True)

METRICS = (ACCURACY, BEST_ACCURACY, TAR, FNMR, EER, AUC, TPIR, RANK, TAIL, POOR_NORM)
"""All metrics, in the order of tables."""

ROC_METRICS = tuple(kind for kind in METRICS if kind.of_roc is not None)
"""The metrics of the whole ROC, which every verification gives."""


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys of metrics in the order of tables."""
    return sorted(keys, key=lambda key: Metric.parse(key).order)


def measurable(points: Mapping[MetricKind, Sequence[float]]) -> list[str]:
    """The keys of all metrics without a point, and of those at the points that are given, as listed."""
    return [
        kind.at(point).key
        for kind in METRICS
        for point in ([None] if kind.point is None else dict.fromkeys(points.get(kind, ())))
    ]


def far_name(far: float) -> str:
    """A rate as written in keys: ``1e-3`` for .001, ``2.5e-4`` for .00025."""
    mantissa, _, exponent = f"{far:.6e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def rate_label(rate: float) -> str:
    """A rate in running text: ``10⁻³``, ``5·10⁻³``, and .00025 unchanged."""
    mantissa, _, exponent = f"{rate:.0e}".partition("e")
    if float(f"{mantissa}e{exponent}") != rate:
        return f"{rate:g}"
    factor = "" if mantissa == "1" else f"{mantissa}·"
    return f"{factor}10{str(int(exponent)).translate(SUPERSCRIPT)}"


def far_point(far: float) -> str:
    """The key of an operating point at a false accept rate: ``far=1e-3``."""
    return f"far={far_name(far)}"


OPERATING_POINT = "operating_point"
"""The key of a stored threshold, beside those of false accept rates."""


def point_label(point: str) -> str:
    """A key such as ``far=1e-3``, or that of a stored threshold, in running text."""
    if point == OPERATING_POINT:
        return "the operating point"
    name, _, rate = point.partition("=")
    value = _rate(rate)
    return point if value is None else f"{name.upper()} {rate_label(value)}"


def _rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if 0 < rate <= 1 else None
