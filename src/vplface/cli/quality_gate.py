"""The options ``--quality`` and ``--min-quality`` of the commands that recognise faces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.cli.quality_names import OF_EMBEDDINGS, read_score, split_names
from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.deploy.quality import QualityCheck
    from vplface.evaluation.operating_point import OperatingPoint
    from vplface.evaluation.quality import QualityGate, QualityScore

GATE_SCORE = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        help="How the quality of a face is measured: norm, recognisability, or an ONNX quality model, FILE.onnx; none "
        "for no check. Default: as the gate of the model's operating point says.",
        show_default=False,
    ),
]
MIN_QUALITY = Annotated[
    float | None,
    typer.Option(
        metavar="Q",
        help="Faces of a lower quality are too poor to decide by. Default: the gate of the model's operating point, "
        "which vplface evaluate --gate stores.",
        show_default=False,
    ),
]


def quality_check(
    point: OperatingPoint | None, score: str | None, least: float | None, device: str = "cpu"
) -> QualityCheck | None:
    """The check that the options and the operating point give; None for none.

    Args:
        point: of the model; None without one, or where a threshold is given on the command line.
        score: ``--quality``.
        least: ``--min-quality``.
        device: of an ONNX quality model.

    Raises:
        UsageError: an unknown score, or recognisability without a stored direction.
        DataError: a damaged gate, or an ONNX file that is missing or another than the gate's.
    """
    from vplface.deploy.quality import QualityCheck
    from vplface.evaluation.quality import OnnxQuality, QualityGate

    gate = None
    if point is not None and point.quality is not None:
        gate = QualityGate.from_json(point.quality, "the operating point")
    if score == "none":
        if least is not None:
            raise UsageError("--quality none measures nothing; leave out --min-quality")
        return None
    if score is None and least is None and gate is None:
        return None
    if score is None:
        if gate is None:
            return QualityCheck(read_score("norm"), least)
        return QualityCheck(_stored_score(gate, device), gate.least if least is None else least)
    (name,) = _one(score)
    if name == "recognisability":
        if gate is None or gate.score != name:
            raise UsageError(
                "--quality recognisability needs the direction of what the model cannot recognise, which is stored "
                "with its operating point: vplface evaluate MODEL --quality recognisability "
                "--save-operating-point 1e-4 --gate discard=0.05; a --threshold on the command line replaces the "
                "operating point"
            )
        chosen = _stored_score(gate, device)
    else:
        chosen = read_score(name, device)
    same = gate is not None and gate.score == name
    if gate is not None and isinstance(chosen, OnnxQuality):
        same = gate.described == chosen.describe()
    return QualityCheck(chosen, gate.least if least is None and gate is not None and same else least)


def _one(text: str) -> list[str]:
    names = split_names([text])
    if len(names) != 1:
        raise UsageError(f"--quality {text}: give one score")
    return names


def _stored_score(gate: QualityGate, device: str) -> QualityScore:
    """The score of a gate, as it was when the gate was chosen."""
    from vplface.data.pictures import Preprocessing
    from vplface.errors import DataError
    from vplface.evaluation.quality import OnnxQuality, Recognisability

    if gate.score == "recognisability":
        return Recognisability.stored(gate.described, "the operating point")
    if gate.score in OF_EMBEDDINGS:
        return read_score(gate.score)
    path = Path(gate.score.partition(".onnx:")[0].removesuffix(".onnx") + ".onnx")
    if not path.exists():
        raise DataError(
            f"{path}: the quality model of the operating point's gate is not there; give its path with --quality, or "
            "--quality none"
        )
    preprocessing, sha256 = gate.described.get("preprocessing"), gate.described.get("sha256")
    if not isinstance(preprocessing, dict):
        raise DataError("the operating point: 'quality': the preprocessing of the quality model is missing")
    return OnnxQuality(path, Preprocessing.from_dict(preprocessing), device, sha256)
