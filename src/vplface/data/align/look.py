"""Whether the faces of a set are aligned: a quick look at a sample of its pictures.

With a detector, the five landmarks of each picture are compared with :data:`~vplface.data.align.similarity.TEMPLATE`,
as the model would see them, in 112 x 112 pixels. Without one, :mod:`vplface.data.align.mean_face` finds the face in the
mean picture. ``python benchmarks/alignment_look.py`` measures how often either is wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, UInt8

from vplface.data.align.face import Detector
from vplface.data.align.mean_face import MeanFace, band_of, locate
from vplface.data.align.similarity import TEMPLATE, similarity
from vplface.data.pictures import SIZE, StoredPictures, UnreadablePictureError, decode_whole
from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")

Verdict: TypeAlias = Literal["aligned", "misplaced", "stretched", "no faces", "unknown"]
Means: TypeAlias = Literal["detector", "mean face"]

PICTURES = 48
"""Largest number of pictures that are looked at."""

_SECONDS = 1.0
FEWEST_OF_MEAN = 16
"""Fewest pictures with a mean to judge by."""
_FEW = 4
_FEWEST_OF_MEDIAN = 8
"""Fewest landmarks whose median is compared with the template."""
_LONGEST = 224
"""Longest side of a picture given to the detector, without its border, in pixels."""
_BORDER = 5
"""A border of a fifth of the picture, its edge repeated: detectors miss faces that fill the picture."""

FAR = 9.0
"""Median distance of the landmarks from the template, in pixels of 112, from which faces are misplaced."""
FAR_OF_FEW = 12.0
"""The same of fewer than four faces: one may be turned to the side, or drawn by the detector where none is."""
OFF = 5.5
"""Distance of the median landmarks, likewise; of eight faces or more."""
VISIBLE = 0.74
"""Correlation from which the mean picture shows a face."""
LOST = 0.2
"""Loss of correlation at the template's place from which that face is misplaced."""
_SQUARE = 1.04
"""Ratio of the sides up to which a picture counts as square."""


@dataclass(frozen=True)
class AlignmentLook:
    """Result of a look at the alignment of a set.

    Attributes:
        verdict: "aligned"; "misplaced": the faces are elsewhere than the template's, or of another size; "stretched":
            most pictures are not square, and become so on reading; "no faces": a detector finds none in most;
            "unknown": the pictures are square, there is no detector, and their mean shows no face.
        means: what the verdict is from.
        pictures: number of pictures looked at.
        faces: number of those in which the detector found a face; None without a detector.
        size: the most frequent width and height; None if no picture can be read.
        sizes: number of different sizes.
        distance: median over the pictures of the mean distance of the landmarks from the template, in pixels of 112;
            None without faces.
        correlation: of the mean picture with that of aligned faces, in its place; None with a detector.
        scale: size of the faces; 1 is the template's. None without faces.
        shift: of the faces from the template's place, right and down, in pixels of 112; None without faces.
    """

    verdict: Verdict
    means: Means
    pictures: int
    faces: int | None = None
    size: tuple[int, int] | None = None
    sizes: int = 0
    distance: float | None = None
    correlation: float | None = None
    scale: float | None = None
    shift: tuple[float, float] | None = None

    @property
    def bad(self) -> bool:
        """Whether a model will see the faces in the wrong place or shape."""
        return self.verdict in ("misplaced", "stretched")

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON-ready values."""
        return asdict(self)


def look(read: Callable[[int], UInt8[np.ndarray, "h w 3"]], count: int, detector: Detector | None) -> AlignmentLook:
    """Look at a sample of pictures, for about a second.

    Args:
        read: gives a picture in RGB, of the size that it is stored in; pictures for which it raises
            UnreadablePictureError are passed over.
        count: number of pictures.
        detector: finds the landmarks; None to judge by the mean picture.
    """
    began = time.monotonic()
    sizes: list[tuple[int, int]] = []
    seen: list[Any] = []
    for index in np.random.default_rng(0).permutation(count)[:PICTURES].tolist():
        if len(sizes) >= FEWEST_OF_MEAN and time.monotonic() - began > _SECONDS:
            break
        try:
            picture = read(index)
        except UnreadablePictureError:
            continue
        sizes.append((picture.shape[1], picture.shape[0]))
        seen.append(band_of(picture) if detector is None else landmarks_of(picture, detector))
    if detector is None:
        return judge_mean(sizes, locate(seen) if len(seen) >= FEWEST_OF_MEAN else None)
    return judge_landmarks(sizes, [points for points in seen if points is not None])


def look_at(pictures: StoredPictures, detector: Detector | None) -> AlignmentLook:
    """Look at a stored set, see :func:`look`."""
    return look(lambda index: decode_whole(pictures.encoded(index), pictures.where(index)), len(pictures), detector)


def landmarks_of(picture: UInt8[np.ndarray, "h w 3"], detector: Detector) -> Float64[np.ndarray, "5 2"] | None:
    """Landmarks of the face nearest to the template, in the picture resized to 112 x 112; None if there is no face."""
    shrink = min(1.0, _LONGEST / max(picture.shape[:2]))
    if shrink < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    rows, columns = height // _BORDER, width // _BORDER
    framed = cv2.copyMakeBorder(picture, rows, rows, columns, columns, cv2.BORDER_REPLICATE)
    to_model = np.array([SIZE / width, SIZE / height])
    found = [(face.landmarks - [columns, rows] + 0.5) * to_model - 0.5 for face in detector(framed)]
    return min(found, key=_distance) if found else None


def judge_landmarks(sizes: Sequence[tuple[int, int]], landmarks: Sequence[Float64[np.ndarray, "5 2"]]) -> AlignmentLook:
    """The verdict by the sizes of the pictures and the landmarks of those with a face, see :func:`landmarks_of`."""
    size, kinds = _most_frequent(sizes)
    if not landmarks or 2 * len(landmarks) < len(sizes):
        verdict: Verdict = "no faces" if sizes else "unknown"
        return AlignmentLook(verdict, "detector", len(sizes), len(landmarks), size, kinds)
    middle = np.median(np.stack(landmarks), axis=0)
    distance = float(np.median([_distance(points) for points in landmarks]))
    few = len(landmarks) < _FEW
    misplaced = distance > (FAR_OF_FEW if few else FAR) or (
        len(landmarks) >= _FEWEST_OF_MEDIAN and _distance(middle) > OFF
    )
    verdict = "misplaced" if misplaced else "stretched" if _are_stretched(sizes) else "aligned"
    matrix = similarity(TEMPLATE, middle)
    right, down = (middle - TEMPLATE).mean(0).tolist()
    return AlignmentLook(
        verdict, "detector", len(sizes), len(landmarks), size, kinds, distance,
        scale=float(np.hypot(matrix[0, 0], matrix[1, 0])), shift=(right, down),
    )  # fmt: skip


def judge_mean(sizes: Sequence[tuple[int, int]], face: MeanFace | None) -> AlignmentLook:
    """The verdict by the sizes of the pictures and the face in their mean; None for too few pictures."""
    size, kinds = _most_frequent(sizes)
    if face is None or max(face.correlation, face.in_place) < VISIBLE:
        unseen: Verdict = "stretched" if _are_stretched(sizes) else "unknown"
        return AlignmentLook(unseen, "mean face", len(sizes), None, size, kinds)
    misplaced = face.in_place < face.correlation - LOST
    verdict: Verdict = "misplaced" if misplaced else "stretched" if _are_stretched(sizes) else "aligned"
    return AlignmentLook(
        verdict, "mean face", len(sizes), None, size, kinds,
        correlation=face.in_place, scale=face.scale, shift=face.shift,
    )  # fmt: skip


def _distance(points: Float64[np.ndarray, "5 2"]) -> float:
    return float(np.linalg.norm(points - TEMPLATE, axis=1).mean())


def _most_frequent(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int] | None, int]:
    counts = Counter(sizes)
    return (counts.most_common(1)[0][0] if counts else None), len(counts)


def _are_stretched(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether most of the pictures are not square."""
    return 2 * sum(max(size) > _SQUARE * min(size) for size in sizes) > len(sizes)
