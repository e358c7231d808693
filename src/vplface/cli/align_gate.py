"""The quality gate of ``vplface data align``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from vplface.cli.faces import load_embedder
from vplface.cli.quality_gate import quality_check
from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Judge = Callable[[Sequence[UInt8[np.ndarray, "size size 3"]]], list[str]]

GATE_MODEL = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Leave out faces that are too poor by the gate of this model's operating point, which vplface evaluate "
        "--gate stores.",
        show_default=False,
    ),
]
ALIGN_SCORE = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        help="How the quality of a face is measured: norm or recognisability by --model, or an ONNX quality model, "
        "FILE.onnx. Default: as the gate of --model says.",
        show_default=False,
    ),
]


def align_gate(model: Path | None, score: str | None, least: float | None, size: int) -> tuple[Judge, str] | None:
    """The judge of crops by the options, and its description; None where no gate is asked for.

    Args:
        model: ``--model``.
        score: ``--quality-score``.
        least: ``--min-quality``.
        size: side of the crops, in pixels.

    Raises:
        UsageError: no least quality, a score that needs a model, or crops of another size than the model's.
        DataError: the model or its operating point cannot be used.
    """
    if model is None and score is None and least is None:
        return None
    if model is None and (score is None or not score.partition(":")[0].endswith(".onnx")):
        raise UsageError(f"--{'quality-score' if score else 'min-quality'}: norm and recognisability are of a --model")
    from vplface.data.pictures import Preprocessing
    from vplface.deploy.decision import resolve_flip
    from vplface.evaluation.operating_point import OperatingPoint, operating_point_path
    from vplface.evaluation.quality import OnnxQuality
    from vplface.reading import is_file

    embedder = point = None
    if model is not None:
        if is_file(operating_point_path(model)):
            point = OperatingPoint.load(model)
        prepared = None if point is None else point.protocol.get("preprocessing")
        embedder = load_embedder(model, "cpu", None if prepared is None else Preprocessing.from_dict(prepared))
    check = quality_check(point, score, least)
    if check is None or check.least is None:
        raise DataError(
            f"{model}: its operating point has no quality gate; store one with vplface evaluate --gate, or give "
            "--min-quality"
        )
    by_embedding = not isinstance(check.score, OnnxQuality)
    if embedder is not None and by_embedding and embedder.card.preprocessing.size != size:
        raise UsageError(f"--size {size}: the gate's model takes {embedder.card.preprocessing.size} pixels a side")
    flip = resolve_flip(point, None)

    def judge(crops: Sequence[UInt8[np.ndarray, "size size 3"]]) -> list[str]:
        raw = np.zeros((len(crops), 1), np.float32)
        if embedder is not None and by_embedding:
            raw = embedder(crops, flip, unit=False)
        return [str(quality) if quality.too_poor else "" for quality in check(raw, crops)]

    return judge, str(check)
