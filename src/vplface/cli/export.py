"""``vplface export``: a trained model as an ONNX file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from vplface.cli.options import AS_JSON
from vplface.errors import UsageError


def export(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of the model: a run (its last model), or RUN/best.", show_default=False),
    ],
    file: Annotated[Path, typer.Argument(help="The file to write, e.g. model.onnx.", show_default=False)],
    opset: Annotated[
        int, typer.Option(min=18, max=23, help="Version of the ONNX operators; the lowest runs in most places.")
    ] = 18,
    as_json: AS_JSON = False,
) -> None:
    """Write a model as one ONNX file and check that onnxruntime computes what torch does.

    Any batch size will do. The input "input" is batch×3×112×112 float32,
    prepared as the file's own metadata say under "model_card": colour order,
    mean and std. The output "embedding" is batch×dim and not normalised:
    divide by the norm before comparing. If onnxruntime's embeddings differ
    from torch's by more than 1e-4, no file is written.

    Example:  vplface export runs/lfw/best model.onnx
    """
    if file.suffix != ".onnx":
        raise UsageError(f"{file}: the name of an ONNX file must end in .onnx")
    from vplface.deploy.onnx import export as export_onnx  # torch and onnx take seconds to import

    exported = export_onnx(model, file, opset)
    if as_json:
        report = {
            "schema": 1,
            "model": str(model),
            "file": str(file),
            "opset": exported.opset,
            "parity": {"max_abs_difference": exported.parity, "pictures": exported.pictures},
            "files": {str(file): hashlib.sha256(file.read_bytes()).hexdigest()},
        }
        print(json.dumps(report))
    else:
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB, opset {exported.opset})")
        print(
            f"parity with torch: unit-norm embeddings of {exported.pictures} random pictures differ by at most "
            f"{exported.parity:.1e}"
        )
