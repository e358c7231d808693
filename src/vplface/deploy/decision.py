"""From which similarity on two faces are taken to be of one person, and what that makes of a comparison."""

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
"""What :func:`accepted` means for two pictures."""


@dataclass(frozen=True)
class Threshold:
    """From which similarity on two faces are taken to be of one person.

    Attributes:
        value: this one.
        point: the operating point that it is; None if it came from the command line.
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

    def among(self, pictures: int) -> str | None:
        """How many strangers a gallery of n pictures gives a name, at most 1 − (1 − FAR)ⁿ; None without a FAR."""
        if self.point is None:
            return None
        strangers = 1 - (1 - self.point.far) ** pictures
        return f"with {pictures:,} enrolled pictures up to {100 * strangers:.2g} % of strangers are given a name"


def stored_point(model: Path, given: float | None, weights: str | None = None) -> OperatingPoint | None:
    """The model's operating point; None if it has none, or if a threshold is given instead.

    Args:
        model: the model.
        given: the threshold that is given.
        weights: see :meth:`OperatingPoint.load`.

    Raises:
        DataError: it is damaged, or was measured with other weights.
    """
    return OperatingPoint.load(model, weights) if given is None and is_file(operating_point_path(model)) else None


def flip_of(point: OperatingPoint | None, asked: Flip | None) -> Flip:
    """How to embed where nobody says: as the operating point does."""
    measured = None if point is None else point.protocol.get("flip")
    return asked or ("none" if measured == "none" else "sum")


def threshold_of(
    model: Path, point: OperatingPoint | None, given: float | None, flip: Flip, preprocessing: Preprocessing
) -> Threshold | None:
    """The threshold; None if there is none, see :func:`way_to_a_threshold`.

    Raises:
        DataError: the operating point was measured with embeddings that were made in another way.
    """
    if given is not None:
        return Threshold(given, None)
    if point is None:
        return None
    for key, now in (("flip", flip), ("preprocessing", preprocessing.to_dict())):
        measured = point.protocol.get(key, now)
        if measured != now:
            raise DataError(
                f"{model}: its operating point was measured with {key} {_plain(measured)}, these embeddings are made "
                f"with {_plain(now)}, so its threshold does not hold; give --threshold, or measure it anew with "
                "vplface evaluate --save-operating-point"
            )
    return Threshold(point.threshold, point)


def way_to_a_threshold(model: Path) -> str:
    """What to tell people whose model has no threshold."""
    return (
        f"{model} has no operating point, so nothing is decided. Measure one on people and cameras like yours: vplface "
        f"evaluate {model} --data FACES --people PEOPLE --save-operating-point 1e-4; or give --threshold"
    )


def accepted(similarity: float, threshold: Threshold | None) -> bool | None:
    """Whether two faces of this similarity are taken to be of one person; None where nothing is decided."""
    return None if threshold is None else similarity >= threshold.value


def answer(matches: Sequence[Match], threshold: Threshold | None) -> tuple[str, bool | None]:
    """What to call a face whose nearest people are ``matches``, the nearest first; and whether it is known."""
    known = accepted(matches[0].similarity, threshold)
    return "unknown" if known is False else matches[0].name, known


def _plain(value: Any) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, Mapping) else str(value)
