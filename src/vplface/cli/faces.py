"""What the commands that use a model share: its options, and how pictures and thresholds are told."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.preprocessing import INSIGHTFACE
from vplface.console import say
from vplface.errors import DataError, UsageError
from vplface.reading import is_file

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing
    from vplface.deploy.decision import Threshold
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


def embedder_of(model: Path, device: str, preprocessing: Preprocessing | None) -> Embedder:
    """The model; for an ONNX file without a card the error says with which options its pictures are described."""
    from vplface.embedder import Embedder

    try:
        return Embedder.load(model, device, preprocessing)
    except DataError as error:
        if preprocessing is not None or model.suffix != ".onnx" or not is_file(model):
            raise
        raise DataError(f"{error}. For an insightface model: {INSIGHTFACE}") from error


def threshold_told(
    model: Path, point: OperatingPoint | None, given: float | None, flip: Flip, preprocessing: Preprocessing
) -> Threshold | None:
    """Resolve the threshold; without one, print advice to stderr."""
    from vplface.deploy.decision import resolve_threshold, threshold_advice

    threshold = resolve_threshold(model, point, given, flip, preprocessing)
    if threshold is None:
        say(f"note: {threshold_advice(model)}", file=sys.stderr)
    return threshold


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
