"""Decision threshold of a model and the decisions it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vplface.data.pictures import Preprocessing
from vplface.deploy.gallery import Match
from vplface.embedder import Flip
from vplface.errors import DataError
from vplface.evaluation.operating_point import OperatingPoint, operating_point_path
from vplface.reading import is_file

VERDICT = {True: "same person", False: "different people", None: "no decision"}
"""Wording of :func:`decide` for two pictures."""
DECISION = {True: "same", False: "different", None: None}
KNOWN = {True: "known", False: "unknown", None: None}
"""Values of :func:`decide` in JSON, of two pictures and of a search; beside them is "too poor"."""


@dataclass(frozen=True)
class Threshold:
    """Similarity from which two faces count as the same person.

    Attributes:
        value: the similarity.
        point: operating point that gave it; None if it came from the command line.
    """

    value: float
    point: OperatingPoint | None

    def __str__(self) -> str:
        if self.point is None:
            return f"threshold {self.value:.4f}, from the command line"
        point = self.point
        return (
            f"threshold {self.value:.4f}: FAR {point.far:g} (measured {point.actual_far:.2g}, TAR {point.tar:.4f}, on "
            f"{point.data})"
        )

    def false_match_note(self, pictures: int) -> str | None:
        """Bound of the rate at which strangers get a name from n pictures, 1 − (1 − FAR)ⁿ; None without a FAR."""
        if self.point is None:
            return None
        strangers = 1 - (1 - self.point.far) ** pictures
        return f"with {pictures:,} enrolled pictures up to {100 * strangers:.2g} % of strangers are given a name"


def load_operating_point(model: Path, given: float | None, weights: str | None = None) -> OperatingPoint | None:
    """Load the model's operating point; None if it has none, or if a threshold is given.

    Args:
        model: path of the model.
        given: threshold from the command line.
        weights: see :meth:`OperatingPoint.load`.

    Raises:
        DataError: the operating point is damaged or was measured with other weights.
    """
    return OperatingPoint.load(model, weights) if given is None and is_file(operating_point_path(model)) else None


def resolve_flip(point: OperatingPoint | None, requested: Flip | None) -> Flip:
    """The requested flip; by default the one of the operating point, else ``"sum"``."""
    measured = None if point is None else point.protocol.get("flip")
    return requested or ("none" if measured == "none" else "sum")


def resolve_threshold(
    model: Path, point: OperatingPoint | None, given: float | None, flip: Flip, preprocessing: Preprocessing
) -> Threshold | None:
    """The given threshold, else that of the operating point; None if there is neither.

    Raises:
        DataError: the operating point was measured with another flip or preprocessing.
    """
    if given is not None:
        return Threshold(given, None)
    if point is None:
        return None
    for key, now in (("flip", flip), ("preprocessing", preprocessing.to_dict())):
        measured = point.protocol.get(key, now)
        if measured != now:
            raise DataError(
                f"{model}: its operating point was measured with {key} {_describe(measured)}, but these embeddings use "
                f"{_describe(now)}, so its threshold does not hold; give --threshold, or measure it again with vplface "
                "evaluate --save-operating-point"
            )
    return Threshold(point.threshold, point)


def threshold_advice(model: Path) -> str:
    """Advice for a model without a threshold."""
    return (
        f"{model} has no operating point, so no decision is made. Measure one on people and cameras like yours: "
        f"vplface evaluate {model} --data FACES --people PEOPLE --save-operating-point 1e-4; or give --threshold"
    )


def decide(similarity: float, threshold: Threshold | None) -> bool | None:
    """Whether a similarity reaches the threshold; None without a threshold."""
    return None if threshold is None else similarity >= threshold.value


def name_and_decision(matches: Sequence[Match], threshold: Threshold | None) -> tuple[str, bool | None]:
    """Name for a face and whether it is known, from its matches, the nearest first."""
    known = decide(matches[0].similarity, threshold)
    return "unknown" if known is False else matches[0].name, known


def _describe(value: Any) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, Mapping) else str(value)
