"""Selection of the faces of a photograph, and their crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import UInt8

from vplface.data.align.face import Detector, Face
from vplface.data.align.similarity import warp
from vplface.data.pictures import MIN_SIDE, SIZE

Choice: TypeAlias = Literal["largest", "center", "all"]
Verdict: TypeAlias = Literal["aligned", "not chosen", "too small", "outside"]


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """Face with its RGB crop, in which the landmarks match the template."""

    picture: UInt8[np.ndarray, "size size 3"]
    face: Face


@dataclass(frozen=True)
class Aligner:
    """Crops the aligned faces of a photograph, the largest first.

    Args:
        detector: face detector, such as :class:`~vplface.data.align.YuNet`.
        choice: faces to crop: "all", the "largest", or the one in the "center", whose mean landmark is nearest to the
            middle of the picture.
        size: side of a crop, in pixels; the template is scaled by size / 112.
        min_size: smallest side in the photograph, in pixels, of the square that becomes a crop.

    Raises:
        ValueError: ``choice`` is unknown, or a size is not positive.
    """

    detector: Detector
    choice: Choice = "all"
    size: int = SIZE
    min_size: float = MIN_SIDE

    def __post_init__(self) -> None:
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice must be one of {', '.join(get_args(Choice))}, got {self.choice!r}")
        if self.size < 1 or self.min_size < 0:
            raise ValueError(f"size must be positive and min_size not negative, got {self.size} and {self.min_size}")

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> list[AlignedFace]:
        """Find, choose and crop the faces of an RGB picture of any size; an empty list if there are none.

        Raises:
            ValueError: if the picture is not uint8 [h, w, 3].
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"a picture must be uint8 RGB [h, w, 3], got {picture.dtype} {list(picture.shape)}")
        judged = self.judge(self.detector(picture), *picture.shape[:2])
        return [AlignedFace(self.crop(picture, face), face) for face, verdict in judged if verdict == "aligned"]

    def judge(self, faces: Sequence[Face], height: int, width: int) -> list[tuple[Face, Verdict]]:
        """The outcome of each face of a picture, the largest first: chosen, or the reason why not."""
        judged = sorted(faces, key=lambda face: -face.side)
        middle = np.array([width - 1, height - 1]) / 2
        fit = [face for face in judged if face.side >= self.min_size and _inside(face, height, width)]
        chosen = fit
        if self.choice != "all":
            chosen = fit[:1] if self.choice == "largest" else sorted(fit, key=lambda face: _distance(face, middle))[:1]
        verdicts: list[tuple[Face, Verdict]] = []
        for face in judged:
            if face in chosen:
                verdicts.append((face, "aligned"))
            elif face in fit:
                verdicts.append((face, "not chosen"))
            else:
                verdicts.append((face, "too small" if face.side < self.min_size else "outside"))
        return verdicts

    def crop(self, picture: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "size size 3"]:
        """The aligned crop of one face; black where it reaches beyond the picture."""
        return warp(picture, face.matrix * (self.size / SIZE), self.size)


def _inside(face: Face, height: int, width: int) -> bool:
    x, y = face.center.tolist()
    return bool(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5)


def _distance(face: Face, point: np.ndarray) -> float:
    return float(np.linalg.norm(face.center - point))
