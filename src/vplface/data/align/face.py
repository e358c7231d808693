"""Face with landmarks, and the protocol of detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float64, UInt8

from vplface.data.align.similarity import TEMPLATE, similarity
from vplface.data.pictures import SIZE

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Names of the five landmarks, in order. Left means left in the picture, a person's right eye."""

_MIRRORED = -0.25
"""Width over height of a face, negative if mirrored, below which the landmarks are in the wrong order."""


@dataclass(frozen=True, eq=False)
class Face:
    """Face in a photograph, in pixels of that photograph; the centre of the first pixel is (0, 0).

    Attributes:
        landmarks: (x, y) of the five points, in the order of :data:`LANDMARKS`.
        score: confidence of the detector, in 0..1.
        box: x, y of the upper left corner, width, height; None if unknown.
        matrix: similarity transform from the landmarks to :data:`TEMPLATE`, in 112 x 112 pixels.

    Raises:
        ValueError: the landmarks cannot be those of a face: not five points, not finite, coincident or collinear, or in
            mirrored order.
    """

    landmarks: Float64[np.ndarray, "5 2"]
    score: float = 1.0
    box: tuple[float, float, float, float] | None = None
    matrix: Float64[np.ndarray, "2 3"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        landmarks = np.asarray(self.landmarks, np.float64)
        if landmarks.shape != (5, 2):
            raise ValueError(f"a face has five landmarks (x, y), got an array of shape {list(landmarks.shape)}")
        matrix = similarity(landmarks, TEMPLATE)
        left, right = landmarks[[0, 3]].mean(0), landmarks[[1, 4]].mean(0)
        eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
        (width_x, width_y), (height_x, height_y) = right - left, mouth - eyes
        if width_x * height_y - width_y * height_x < _MIRRORED * (height_x**2 + height_y**2):
            raise ValueError(
                f"the landmarks are in mirrored order; expected {', '.join(LANDMARKS)}, left being left in the picture"
            )
        object.__setattr__(self, "landmarks", landmarks)
        object.__setattr__(self, "matrix", matrix)

    @property
    def side(self) -> float:
        """Side of the square that becomes the crop, in pixels of the photograph."""
        return SIZE / float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @property
    def center(self) -> Float64[np.ndarray, 2]:
        """Mean of the landmarks, (x, y)."""
        mean: Float64[np.ndarray, 2] = self.landmarks.mean(0)
        return mean


class Detector(Protocol):
    """Face detector; picklable, since each worker process has a copy."""

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> Sequence[Face]:
        """Faces in an RGB picture of any size, unordered; the list may be empty."""
