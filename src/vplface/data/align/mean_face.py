"""Where the faces of a set lie, from the mean of its pictures alone, without a detector.

Each picture is shrunk to 56 x 56 grey pixels, its band of 1.2 to 6 pixels (a difference of Gaussians) is divided by
its standard deviation, and the pictures are averaged. In the mean of an aligned set eyes, nose and mouth are sharp.
They are compared with those of :func:`reference` at every place and at several sizes by the normalised correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vplface.data.pictures import SIZE
from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")

GRID = 56
"""Side of the pictures that are averaged, in pixels."""

WINDOW = slice(12, 48), slice(10, 46)
"""Rows and columns of the grid that the reference covers: brows to chin."""

_FINE, _COARSE = 1.2, 6.0
_LEAST_SPREAD = 5.0
"""Added to the standard deviation, in grey levels, so that an empty picture does not become noise."""
_SCALES = np.geomspace(0.45, 1.4, 26)

_HALF: Int64[np.ndarray, "18 9"] = np.array(
    [
        (-7, 6, 18, 30, 39, 46, 49, 49, 49),
        (-5, 10, 24, 36, 44, 50, 53, 52, 51),
        (-3, 14, 29, 41, 50, 56, 60, 60, 58),
        (-1, 13, 23, 28, 32, 38, 48, 57, 61),
        (-2, 3, 1, -8, -20, -21, -2, 27, 46),
        (-6, -11, -21, -39, -63, -75, -60, -19, 25),
        (-8, -22, -47, -74, -96, -100, -85, -42, 20),
        (2, -15, -44, -68, -81, -75, -61, -26, 33),
        (20, 21, 9, -5, -14, -15, -10, 7, 48),
        (28, 46, 52, 47, 40, 35, 27, 30, 56),
        (23, 46, 64, 70, 68, 56, 36, 36, 57),
        (12, 35, 58, 71, 68, 45, 22, 25, 44),
        (3, 23, 44, 55, 46, 21, -4, -9, 4),
        (-3, 11, 26, 31, 26, 16, -6, -28, -29),
        (-6, 4, 13, 16, 17, 20, 12, -5, -14),
        (-5, 4, 13, 12, 5, 0, -2, -3, -4),
        (-5, 6, 18, 17, -6, -34, -42, -36, -27),
        (-9, 2, 17, 23, 8, -21, -36, -28, -18),
    ]
)
"""Left half of the reference, rows of 4 pixels of 112, in hundredths; the right half mirrors it. The mean over
19,533 aligned pictures of 6,048 people, LFW and a part of CelebA (``benchmarks/alignment_look.py --reference``)."""


@dataclass(frozen=True)
class MeanFace:
    """The best match of the reference in the mean of some pictures.

    Attributes:
        correlation: of the best match, at most 1.
        in_place: correlation at the place and size of the template.
        scale: size of the best match; 1 is that of the template.
        shift: of its middle from that of the template, right and down, in pixels of 112.
    """

    correlation: float
    in_place: float
    scale: float
    shift: tuple[float, float]


def band_of(picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "56 56"]:
    """The band of a picture that is averaged, as the module says; a picture that is not square is stretched."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    band = cv2.GaussianBlur(small, (0, 0), _FINE) - cv2.GaussianBlur(small, (0, 0), _COARSE)
    return np.asarray(band / (band.std() + _LEAST_SPREAD), np.float32)


def reference() -> Float32[np.ndarray, "36 36"]:
    """The mean of aligned faces in :data:`WINDOW`."""
    whole = np.hstack([_HALF, _HALF[:, ::-1]]).astype(np.float32) / 100
    rows, columns = (part.stop - part.start for part in WINDOW)
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_CUBIC), np.float32)


def half_of_reference(mean: Float32[np.ndarray, "56 56"]) -> Int64[np.ndarray, "18 9"]:
    """The table of this module, from the mean of aligned faces."""
    face = (mean + mean[:, ::-1])[WINDOW] / 2
    coarse = face.reshape(len(_HALF), 2, 2 * _HALF.shape[1], 2).mean((1, 3))
    scaled: Int64[np.ndarray, "18 9"] = np.rint(100 * coarse / np.abs(coarse).max()).astype(np.int64)
    left: Int64[np.ndarray, "18 9"] = scaled[:, : _HALF.shape[1]]  # the mean was made symmetric
    return left


def locate(bands: Sequence[Float32[np.ndarray, "56 56"]]) -> MeanFace:
    """Where the face is in the mean of the bands of some pictures."""
    mean: Float32[np.ndarray, "56 56"] = np.stack(bands).mean(0)
    face = reference()
    rows, columns = WINDOW
    middle = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    matches = []
    for scale in _SCALES.tolist():
        sought = cv2.resize(
            face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        if max(sought.shape) > GRID:
            break
        alike = cv2.matchTemplate(mean, sought, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(alike)
        shift = (x + sought.shape[1] / 2 - middle[0], y + sought.shape[0] / 2 - middle[1])
        matches.append((best, scale, shift))
    best, scale, (right, down) = max(matches)
    here = cv2.matchTemplate(mean[WINDOW], face, cv2.TM_CCOEFF_NORMED)
    pixels = SIZE / GRID
    return MeanFace(float(best), float(here[0, 0]), scale, (pixels * right, pixels * down))
