"""The look at the alignment of the pictures that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vplface.evaluation.task import VerificationTask

LOOK = Annotated[
    Path | None,
    typer.Option(
        help="YuNet's .onnx file, with which a sample is looked at: a set that is not aligned is warned about. Without "
        "it ~/.cache/vplface/face_detection_yunet.onnx, else the mean of the pictures.",
        show_default=False,
    ),
]


def look_at_alignment(
    models: Sequence[Path], data: Path, task: VerificationTask, detector_model: Path | None
) -> dict[str, Any]:
    """Warn of an evaluation set that is not aligned, unless only embeddings in files are evaluated; for ``--json``."""
    from vplface.data.align.advice import warn_if_unaligned
    from vplface.evaluation.embeddings_file import TYPES

    if task.stored is None or all(model.suffix in TYPES for model in models):
        return {}
    return {"alignment": warn_if_unaligned(data, task.stored, None, detector_model).to_dict()}
