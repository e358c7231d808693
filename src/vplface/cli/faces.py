"""What the commands that use a model share: how a picture becomes a face, and from which similarity on two are one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.preprocessing import INSIGHTFACE
from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing
    from vplface.deploy.faces import Photograph
    from vplface.embedder import Embedder, Flip
    from vplface.evaluation.operating_point import OperatingPoint

ALIGN = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        help="auto: a picture of the model's size, 112×112, is an aligned face and taken as it is, any other is a "
        "photograph in which faces are found and aligned. always, never: whatever their size."
    ),
]
DETECTOR_MODEL = Annotated[
    Path | None,
    typer.Option(
        help="YuNet's .onnx file, which finds the faces; without it, as for vplface data align, "
        "~/.cache/vplface/face_detection_yunet.onnx.",
        show_default=False,
    ),
]
THRESHOLD = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="The similarity from which on two faces are of one person. Default: the model's operating point.",
        show_default=False,
    ),
]
FLIP_OF_POINT = Annotated[
    Literal["none", "sum"] | None,
    typer.Option(
        help="sum: add the embedding of the mirrored picture. Default: as the model's operating point says, else sum.",
        show_default=False,
    ),
]
SHOW = Annotated[
    Path | None,
    typer.Option(
        help="Also draw the pictures with their faces and the result to this .png or .jpg.", show_default=False
    ),
]


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


def embedder_of(model: Path, device: str, preprocessing: Preprocessing | None) -> Embedder:
    """The model; for an ONNX file without a card the error says with which options its pictures are described."""
    from vplface.embedder import Embedder

    try:
        return Embedder.load(model, device, preprocessing)
    except DataError as error:
        if preprocessing is not None or model.suffix != ".onnx" or not model.is_file():
            raise
        raise DataError(f"{error}. For an insightface model: {INSIGHTFACE}") from error


def stored_point(model: Path, given: float | None) -> OperatingPoint | None:
    """The model's operating point; None if it has none, or if a threshold is given instead.

    Raises:
        DataError: it is damaged, or was measured with other weights.
    """
    from vplface.evaluation.operating_point import OperatingPoint, operating_point_path

    return OperatingPoint.load(model) if given is None and operating_point_path(model).is_file() else None


def flip_of(point: OperatingPoint | None, asked: Flip | None) -> Flip:
    """How to embed where the command line does not say: as the operating point does."""
    measured = None if point is None else point.protocol.get("flip")
    return asked or ("none" if measured == "none" else "sum")


def threshold_of(
    model: Path, point: OperatingPoint | None, given: float | None, flip: Flip, preprocessing: Preprocessing
) -> Threshold | None:
    """The threshold; None, and a note on stderr that says how to get one, if there is none.

    Raises:
        DataError: the operating point was measured with embeddings that were made in another way.
    """
    if given is not None:
        return Threshold(given, None)
    if point is None:
        print(
            f"note: {model} has no operating point, so nothing is decided. Measure one on people and cameras like "
            f"yours: vplface evaluate {model} --data FACES --people PEOPLE --save-operating-point 1e-4; or give "
            "--threshold",
            file=sys.stderr,
        )
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


def _plain(value: Any) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, Mapping) else str(value)


def threshold_report(threshold: Threshold | None) -> dict[str, Any]:
    """The same for ``--json``."""
    point = None if threshold is None else threshold.point
    return {
        "threshold": None if threshold is None else threshold.value,
        "operating_point": None if point is None else asdict(point),
    }


def photograph_report(photograph: Photograph) -> dict[str, Any]:
    """A picture and its faces for ``--json``."""
    return {
        "path": str(photograph.path),
        "sha256": photograph.sha256,
        "faces": [{"box": face.box, "score": face.score} for face in photograph.faces],
    }


def require_drawing(path: Path | None) -> None:
    """Raise UsageError unless a drawing's name is a picture's, MissingExtraError without what draws."""
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--show {path}: the name must end in .png or .jpg")
    from vplface.errors import import_extra

    import_extra("matplotlib", "plot")
