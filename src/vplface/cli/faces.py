"""Options, models, thresholds and JSON entries of the commands that recognise faces."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface.cli.preprocessing import INSIGHTFACE
from vplface.console import say
from vplface.errors import DataError, UsageError
from vplface.reading import is_file, kind_of

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing
    from vplface.deploy.decision import Threshold
    from vplface.deploy.faces import Alignment, Photograph
    from vplface.deploy.gallery import EmbedderFingerprint
    from vplface.embedder import Embedder, Flip
    from vplface.evaluation.operating_point import OperatingPoint

ALIGN = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        help="auto: a picture of the model's size, 112×112, is used as an aligned face; in any other picture faces are "
        "detected and aligned. always, never: regardless of size."
    ),
]
DETECTOR_MODEL = Annotated[
    Path | None,
    typer.Option(
        help="YuNet's .onnx file, which detects the faces; without it, as for vplface data align, "
        "~/.cache/vplface/face_detection_yunet.onnx.",
        show_default=False,
    ),
]
THRESHOLD = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="Two faces are of one person from this cosine similarity on. Default: the model's operating point.",
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
class FaceOptions:
    """How faces are found and embedded, as the command line says it.

    Attributes:
        align: see :data:`vplface.deploy.faces.Alignment`.
        detector_model: YuNet's file.
        flip: whether the embedding of the mirrored picture is added; None for what the operating point says.
        preprocessing: replaces that of the model; None for the model's.
        device: of the model.
    """

    align: Alignment
    detector_model: Path | None
    flip: Flip | None
    preprocessing: Preprocessing | None
    device: str


def load_embedder(model: Path, device: str, preprocessing: Preprocessing | None) -> Embedder:
    """The model; the error for an ONNX file without a model card names the options for its preprocessing."""
    from vplface.embedder import Embedder

    try:
        return Embedder.load(model, device, preprocessing)
    except DataError as error:
        if preprocessing is not None or model.suffix != ".onnx" or not is_file(model):
            raise
        raise DataError(f"{error}. For an insightface model: {INSIGHTFACE}") from error


def gallery_model(fingerprint: EmbedderFingerprint, given: Path | None) -> Path:
    """The path of a gallery's model: the given one, else the one that the gallery has stored.

    Raises:
        DataError: there is no such file or folder.
    """
    model = Path(fingerprint.model) if given is None else given
    if kind_of(model) is None:
        raise DataError(
            f"{model}: the gallery's model does not exist"
            + (" any more; give its new path with --model" if given is None else "")
        )
    return model


def threshold_or_advice(
    model: Path, point: OperatingPoint | None, given: float | None, flip: Flip, preprocessing: Preprocessing
) -> Threshold | None:
    """Resolve the threshold; without one, print advice to stderr."""
    from vplface.deploy.decision import resolve_threshold, threshold_advice

    threshold = resolve_threshold(model, point, given, flip, preprocessing)
    if threshold is None:
        say(f"note: {threshold_advice(model)}", file=sys.stderr)
    return threshold


def require_prior(prior: float | None, model: Path, threshold: Threshold | None) -> None:
    """Raise UsageError for a prior that is not within (0, 1), or where the threshold has no calibration."""
    if prior is not None and not 0 < prior < 1:
        raise UsageError(f"--prior {prior:g}: a probability above 0 and below 1")
    point = None if threshold is None else threshold.point
    if prior is not None and (point is None or point.calibration is None):
        raise UsageError(
            f"--prior needs a calibration, and the threshold in use has none; make one with: vplface evaluate {model} "
            "--data FACES --people PEOPLE --calibrate isotonic --save-operating-point 1e-4"
        )


def threshold_report(threshold: Threshold | None) -> dict[str, Any]:
    """The threshold and its operating point for ``--json``."""
    point = None if threshold is None else threshold.point
    return {
        "threshold": None if threshold is None else threshold.value,
        "operating_point": None if point is None else asdict(point),
    }


def photograph_report(photograph: Photograph) -> dict[str, Any]:
    """A photograph and its faces for ``--json``."""
    return {
        "path": str(photograph.path),
        "sha256": photograph.sha256,
        "faces": [{"box": face.box, "score": face.score} for face in photograph.faces],
    }


def require_drawing(path: Path | None) -> None:
    """Raise UsageError unless --show names a .png or .jpg file, MissingExtraError without matplotlib."""
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--show {path}: the name must end in .png or .jpg")
    from vplface.errors import import_extra

    import_extra("matplotlib", "plot")
