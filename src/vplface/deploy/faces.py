"""Reader of the faces in a picture file, photograph or aligned face."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import UInt8

from vplface.data.align import AlignedFace, Aligner, YuNet
from vplface.data.pictures import SIZE, decode_whole, read_picture_file, resized
from vplface.errors import DataError

Alignment: TypeAlias = Literal["auto", "always", "never"]
"""``"auto"``: a picture of exactly the model's size is taken to be an aligned face, any other is a photograph.
``"always"``: every picture is a photograph. ``"never"``: every picture is an aligned face, resized if need be."""

Box: TypeAlias = tuple[int, int, int, int]
"""x, y of the upper left corner, width and height, in pixels of the photograph."""


class NoFaceError(DataError):
    """Raised for a photograph without a usable face; ``where`` is its path, ``reason`` the explanation."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


@dataclass(frozen=True, eq=False)
class FoundFace:
    """Aligned face, ready for a model.

    Attributes:
        picture: the aligned crop, RGB.
        box: box in the photograph; None if the picture was an aligned face.
        score: confidence of the detector, in 0..1; None if the picture was an aligned face.
    """

    picture: UInt8[np.ndarray, "size size 3"]
    box: Box | None = None
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture file and its faces.

    Attributes:
        path: the file.
        sha256: hash of its bytes, in hex.
        picture: the whole picture, RGB.
        faces: faces, the largest first.
    """

    path: Path
    sha256: str
    picture: UInt8[np.ndarray, "h w 3"]
    faces: Sequence[FoundFace]

    @property
    def boxes(self) -> list[Box | None]:
        """Boxes of the faces, in order."""
        return [face.box for face in self.faces]

    def face(self, number: int = 1) -> FoundFace:
        """Face by its number, 1 for the largest.

        Raises:
            NoFaceError: the number is out of range.
        """
        if 1 <= number <= len(self.faces):
            return self.faces[number - 1]
        raise NoFaceError(
            str(self.path), f"there is no face {number}; it shows {len(self.faces)}{describe_boxes(self.boxes)}"
        )


def describe_box(box: Box | None) -> str:
    """Size and position of a box, in words."""
    return "aligned" if box is None else "{2}×{3} at {0},{1}".format(*box)


def describe_boxes(boxes: Sequence[Box | None]) -> str:
    """Numbered faces with sizes and positions, to follow a count; empty for no faces."""
    return "".join(
        f"{', ' if number > 1 else ': '}{number} is {describe_box(box)}" for number, box in enumerate(boxes, 1)
    )


@dataclass(frozen=True)
class FaceReader:
    """Reads a picture file and finds its faces.

    Args:
        size: side of the model's input, in pixels.
        align: see :data:`Alignment`.
        detector_model: YuNet's file, see :class:`~vplface.data.align.YuNet`; opened when a photograph is first read.
    """

    size: int = SIZE
    align: Alignment = "auto"
    detector_model: Path | None = None

    def __post_init__(self) -> None:
        if self.align not in get_args(Alignment):
            raise ValueError(f"align must be one of {', '.join(get_args(Alignment))}, got {self.align!r}")

    @cached_property
    def _aligner(self) -> Aligner:
        return Aligner(YuNet(self.detector_model), size=self.size)

    def __call__(self, path: Path | str) -> Photograph:
        """Read a picture.

        Raises:
            UnreadablePictureError: the file is missing or not a picture.
            NoFaceError: the photograph has no face that is large enough.
            DataError: the detector's model is missing or invalid.
        """
        return self.from_bytes(read_picture_file(path), Path(path))

    def from_bytes(self, data: bytes, path: Path) -> Photograph:
        """Read a picture from the bytes of a file; ``path`` names it in errors."""
        picture = decode_whole(data, str(path))
        if self.align == "never" or (self.align == "auto" and picture.shape[:2] == (self.size, self.size)):
            faces = [FoundFace(resized(picture, self.size))]
        else:
            faces = self._align(picture, path)
        return Photograph(path, hashlib.sha256(data).hexdigest(), picture, faces)

    def _align(self, picture: UInt8[np.ndarray, "h w 3"], path: Path) -> list[FoundFace]:
        height, width = picture.shape[:2]
        judged = self._aligner.judge(self._aligner.detector(picture), height, width)
        usable = [face for face, verdict in judged if verdict == "aligned"]
        if not judged:
            raise NoFaceError(
                str(path),
                f"no face found in {width}×{height} pixels; the photograph must be upright. If it is an aligned face "
                "already, say --align never",
            )
        if not usable:
            raise NoFaceError(
                str(path),
                f"no face of a usable size: the largest of {len(judged)} covers {judged[0][0].side:.0f} pixels a side, "
                f"needs {self._aligner.min_size:g}",
            )
        return [
            FoundFace(aligned.picture, _pixel_box(aligned), aligned.face.score)
            for aligned in (AlignedFace(self._aligner.crop(picture, face), face) for face in usable)
        ]


def _pixel_box(aligned: AlignedFace) -> Box:
    """Box of the detector in whole pixels; without one, the box around the landmarks."""
    face = aligned.face
    if face.box is not None:
        x, y, width, height = map(round, face.box)
        return x, y, width, height
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    x, y, width, height = (round(value) for value in [*low.tolist(), *(high - low).tolist()])
    return x, y, width, height
