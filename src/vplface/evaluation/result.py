"""The result of an evaluation: figures with their protocol, curves, the most wrong pairs; and two results compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from vplface.errors import DataError
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.figure import Difference, Figure
from vplface.evaluation.mcnemar import mcnemar
from vplface.evaluation.metrics import Metric


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one model on one task. Rates are fractions, never percent.

    Attributes:
        name: of the task.
        protocol: how the figures were made.
        metrics: the figures of ``"accuracy"``, ``"tar@far=1e-3"``, ``"eer"`` and so on, see
            :mod:`vplface.evaluation.metrics`.
        curves: ``"roc"`` (far, tar), ``"roc_band"`` (far, and the ends low and high of the 95 % interval of tar) and
            ``"histogram"`` (edges, genuine, impostor).
        worst: ``"genuine"`` and ``"impostor"`` pairs that the model is most wrong about.
        fingerprint: of the pairs, their people and the draws of the bootstrap: two evaluations with the same can be
            compared pair by pair.
        replicates: the bootstrap's replicates of each metric.
        correct: whether each pair of a list was classified correctly; empty for other tasks.
        groups: errors by group, as :func:`vplface.evaluation.groups.group_errors` gives them; empty without groups.
        strata: errors and the impostor tail by the quality of pictures, as :func:`vplface.evaluation.strata.stratify`
            gives them; empty where no pictures were degraded.
        promise: error rates at a stored threshold, as :func:`vplface.evaluation.promise.measure_promise` gives them;
            empty without one.
        hard: errors on the nearest strangers, as :func:`vplface.evaluation.hard_pairs.hard_errors` gives them; empty
            where they were not asked for.
        calibration: as :func:`vplface.evaluation.calibrate.calibrate` gives it; empty where none was asked for.
        quality: error-versus-discard curves, as :func:`vplface.evaluation.quality.compare_scores` gives them; empty
            where no quality scores were asked for.
    """

    name: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Figure]
    curves: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    worst: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    fingerprint: str = ""
    replicates: Mapping[str, Float64[np.ndarray, " replicates"]] = field(default_factory=dict)
    correct: Bool[np.ndarray, " p"] = field(default_factory=lambda: np.zeros(0, bool))
    groups: Mapping[str, Any] = field(default_factory=dict)
    strata: Mapping[str, Any] = field(default_factory=dict)
    promise: Mapping[str, Any] = field(default_factory=dict)
    hard: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)

    @property
    def further(self) -> dict[str, Mapping[str, Any]]:
        """The measurements beside the metrics that were made, by their keys in JSON."""
        names = ("groups", "strata", "promise", "hard", "calibration", "quality")
        return {name: part for name in names if (part := getattr(self, name))}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the inverse of :meth:`from_dict`; replicates are rounded to six digits.

        ``"strata"``, ``"promise"``, ``"hard"``, ``"calibration"`` and ``"quality"`` are there only where they were
        measured, so that other files are as version 0.1 writes them.
        """
        return {
            "name": self.name,
            "protocol": dict(self.protocol),
            "metrics": self.metrics_json(),
            "curves": {name: dict(curve) for name, curve in self.curves.items()},
            "worst": {kind: [dict(pair) for pair in pairs] for kind, pairs in self.worst.items()},
            "fingerprint": self.fingerprint,
            "replicates": {
                name: [round(float(value), 6) if np.isfinite(value) else None for value in values]
                for name, values in self.replicates.items()
            },
            "correct": "".join("01"[right] for right in self.correct.tolist()),
            "groups": dict(self.groups),
            **{name: dict(part) for name, part in self.further.items()},
        }

    def metrics_json(self) -> dict[str, dict[str, Any]]:
        """The figures of all metrics, JSON-ready."""
        return {name: figure.to_json() for name, figure in self.metrics.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Read back :meth:`to_dict`; what version 0.1 did not write, such as ``"groups"``, may be missing.

        Raises:
            DataError: a part is missing or of the wrong kind.
        """
        kinds = {
            "name": str,
            "protocol": Mapping,
            "metrics": Mapping,
            "curves": Mapping,
            "worst": Mapping,
            "fingerprint": str,
            "replicates": Mapping,
            "correct": str,
            "groups": Mapping,
            "strata": Mapping,
            "promise": Mapping,
            "hard": Mapping,
            "calibration": Mapping,
            "quality": Mapping,
        }
        if not isinstance(values, Mapping):
            raise DataError(f"not an evaluation: {type(values).__name__}")
        later = ("groups", "strata", "promise", "hard", "calibration", "quality")
        values = {"correct": "", **{part: {} for part in later}, **values}
        wrong = [key for key, kind in kinds.items() if not isinstance(values.get(key), kind)]
        if wrong:
            raise DataError(f"not an evaluation: {', '.join(map(repr, wrong))} missing or of the wrong kind")
        for name, figure in values["metrics"].items():
            if not isinstance(figure, Mapping) or not isinstance(figure.get("value"), int | float | None):
                raise DataError(f"not an evaluation: the metric {name!r} has no value")
        try:
            replicates = {name: np.array(numbers, np.float64) for name, numbers in values["replicates"].items()}
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not an evaluation: replicates are not numbers: {error}") from error
        read: dict[str, Any] = {
            "metrics": {name: Figure.from_json(figure) for name, figure in values["metrics"].items()},
            "replicates": replicates,
            "correct": np.array([answer == "1" for answer in values["correct"]], bool),
        }
        return cls(**{key: values[key] for key in kinds if key not in read}, **read)


def compare(first: Evaluation, second: Evaluation) -> dict[str, dict[str, Any]]:
    """The paired difference, second minus first, of every metric that both have and resampled.

    Both must have been measured on the same pairs, with the same draws of people. Then a hard person weighs on both
    alike and the interval of the difference is narrower than the two models' own intervals suggest.

    Returns:
        {metric: {"difference", "ci95", "distinguishable"}}; a difference is distinguishable if its 95 % interval
        excludes 0. Where both hold their answers to the same pairs, the accuracy has ``"mcnemar"`` too: how many pairs
        each model alone classified correctly, and the p-value of :func:`vplface.evaluation.mcnemar.mcnemar`.

    Raises:
        ValueError: the two were not measured on the same pairs with the same draws.
    """
    return {metric: difference.to_json() for metric, difference in paired_differences(first, second).items()}


def paired_differences(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """The differences of :func:`compare` as objects."""
    if not first.fingerprint or first.fingerprint != second.fingerprint:
        raise ValueError(
            f"{first.name!r} and {second.name!r} cannot be compared pair by pair: they differ in their pairs, in the "
            "number of resamples or in the seed"
        )
    differences = {}
    for metric in first.replicates:
        if metric not in second.replicates:
            continue
        before, after = first.metrics[metric].value, second.metrics[metric].value
        if before is None or after is None:
            continue
        moved = second.replicates[metric] - first.replicates[metric]
        ends = interval(moved, int(first.protocol["identities"]), bounds=None)
        differences[metric] = Difference(
            after - before,
            ends,
            distinguishable=ends is not None and (ends[0] > 0 or ends[1] < 0),
            mcnemar=_mcnemar(first, second) if Metric.parse(metric).judges_pairs else None,
        )
    return differences


def _mcnemar(first: Evaluation, second: Evaluation) -> dict[str, Any] | None:
    """McNemar's test; None if the answers of the two are not known."""
    if len(first.correct) != len(second.correct) or not len(first.correct):
        return None
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((second.correct & ~first.correct).sum())
    return {"only_first": only_first, "only_second": only_second, "p": mcnemar(only_first, only_second)}
