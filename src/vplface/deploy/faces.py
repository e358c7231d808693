"""A picture file to the faces in it: a photograph through the aligner, an aligned face as it is."""

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
    """A photograph in which there is no face, or none that can be used; ``where`` is its path, ``reason`` says why."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face as a model takes it.

    Attributes:
        picture: the aligned crop, RGB.
        box: where it is in the photograph; None if the picture was an aligned face.
        score: how sure the detector was, in 0..1; None likewise.
    """

    picture: UInt8[np.ndarray, "size size 3"]
    box: Box | None = None
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture file and its faces.

    Attributes:
        path: the file.
        sha256: of its bytes.
        picture: the whole of it, RGB.
        faces: the largest first.
    """

    path: Path
    sha256: str
    picture: UInt8[np.ndarray, "h w 3"]
    faces: Sequence[FoundFace]

    @property
    def boxes(self) -> list[Box | None]:
        """Of the faces."""
        return [face.box for face in self.faces]

    def face(self, number: int = 1) -> FoundFace:
        """A face by its number, 1 for the largest.

        Raises:
            NoFaceError: there is no such face.
        """
        if 1 <= number <= len(self.faces):
            return self.faces[number - 1]
        raise NoFaceError(str(self.path), f"there is no face {number}; it shows {len(self.faces)}{listed(self.boxes)}")


def place(box: Box | None) -> str:
    """Size and place of a face, in words."""
    return "aligned" if box is None else "{2}×{3} at {0},{1}".format(*box)


def listed(boxes: Sequence[Box | None]) -> str:
    """Faces with their numbers and places, to go behind a count; empty for none."""
    return "".join(f"{', ' if number > 1 else ': '}{number} is {place(box)}" for number, box in enumerate(boxes, 1))


@dataclass(frozen=True)
class FaceReader:
    """Picture file → its faces.

    Args:
        size: side of the crops that the model takes.
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
            UnreadablePictureError: a file that is missing or no picture.
            NoFaceError: a photograph without a face, or with none that is large enough.
            DataError: the detector's model is missing or none.
        """
        return self.decoded(read_picture_file(path), Path(path))

    def decoded(self, data: bytes, path: Path) -> Photograph:
        """The same from a file's bytes; ``path`` is for errors and names."""
        picture = decode_whole(data, str(path))
        if self.align == "never" or (self.align == "auto" and picture.shape[:2] == (self.size, self.size)):
            faces = [FoundFace(resized(picture, self.size))]
        else:
            faces = self._found(picture, path)
        return Photograph(path, hashlib.sha256(data).hexdigest(), picture, faces)

    def _found(self, picture: UInt8[np.ndarray, "h w 3"], path: Path) -> list[FoundFace]:
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
            FoundFace(aligned.picture, _whole(aligned), aligned.face.score)
            for aligned in (AlignedFace(self._aligner.crop(picture, face), face) for face in usable)
        ]


def _whole(aligned: AlignedFace) -> Box:
    """The detector's box in whole pixels; that of the landmarks if it gave none."""
    face = aligned.face
    if face.box is not None:
        x, y, width, height = map(round, face.box)
        return x, y, width, height
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    x, y, width, height = (round(value) for value in [*low.tolist(), *(high - low).tolist()])
    return x, y, width, height
