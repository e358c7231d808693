"""``vplface export``: a trained model as an ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vplface import bounds
from vplface.cli.options import AS_JSON, FLIP
from vplface.console import print_json, say
from vplface.errors import UsageError

if TYPE_CHECKING:
    from vplface.deploy.onnx import Exported


def export(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of the model: a run (its last model), or RUN/best.", show_default=False),
    ],
    file: Annotated[Path, typer.Argument(help="The file to write, e.g. model.onnx.", show_default=False)],
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(
            help="Type of weights and arithmetic; input and output stay float32. fp16: half the size, for GPUs. int8: "
            "a quarter of the size, for CPUs; needs --calibrate."
        ),
    ] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Aligned faces such as the model will see, in any form that vplface reads: the ranges of int8 are "
            "measured on at most 512 of them.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Measure the cost of fp16 or int8 in accuracy on these pictures, against fp32. Default: "
            "the evaluation sets of the run, if they exist.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="List of pairs of --data, as in vplface evaluate.", show_default=False)
    ] = None,
    threshold_pairs: Annotated[
        Path | None, typer.Option(help="Choose the threshold of the accuracy on this list.", show_default=False)
    ] = None,
    people: Annotated[
        Path | None, typer.Option(help="Instead of --pairs: all pairs of these people.", show_default=False)
    ] = None,
    flip: FLIP = "sum",
    bootstrap: Annotated[
        int, typer.Option(min=0, max=bounds.REPEATS, help="Resamples of the people for the 95 % intervals; 0 for none.")
    ] = 500,
    opset: Annotated[
        int, typer.Option(min=18, max=23, help="Version of the ONNX operators; the lowest runs in most places.")
    ] = 18,
    as_json: AS_JSON = False,
) -> None:
    """Write a model as one ONNX file and check that onnxruntime computes what torch does.

    Any batch size works. The input "input" is batch×3×112×112 float32, prepared as the metadata of the file state under
    "model_card": colour order, mean and std. The output "embedding" is batch×dim and not normalised: divide by the norm
    before comparing.

    No file is written if its embeddings are too far from torch's: in fp32 a coordinate by more than 1e-4, in fp16 a
    cosine below .999, in int8 a mean cosine below .95 on pictures that it was not calibrated on.

    Example:  vplface export runs/lfw/best model.onnx

    Example:  vplface export runs/lfw/best small.onnx --precision int8 --calibrate faces --data lfw112 --pairs pairs.txt
    """
    if file.suffix != ".onnx":
        raise UsageError(f"{file}: the name of an ONNX file must end in .onnx")
    if precision == "fp32" and (data or pairs or threshold_pairs or people):
        raise UsageError("fp32 costs no accuracy; measure the model with vplface evaluate")
    if (pairs or threshold_pairs or people) and data is None:
        raise UsageError("--pairs, --threshold-pairs and --people need --data, the pictures of the lists")
    if precision == "int8" and calibrate is None:
        raise UsageError("int8 needs --calibrate DIR: aligned faces such as the model will see")
    if precision != "int8" and calibrate is not None:
        raise UsageError(f"--calibrate is for int8, not for {precision}")
    from vplface.cli.export_cost import cost_measurement  # torch and onnx take seconds to import
    from vplface.data.formats import open_pictures
    from vplface.deploy.onnx import export as export_onnx

    measure = (
        cost_measurement(model, data, pairs, threshold_pairs, people, flip, bootstrap) if precision != "fp32" else None
    )
    exported = export_onnx(
        model,
        file,
        opset,
        precision=precision,
        calibration=None if calibrate is None else open_pictures(calibrate),
    )
    cost = None if measure is None else measure(file)
    if as_json:
        report = _report(model, exported)
        if cost is not None:
            report["cost"] = cost.to_dict()
        print_json(report)
        return
    say(f"wrote {file} ({_size(exported)}, opset {exported.opset})")
    say(_parity(exported, calibrate))
    if cost is not None:
        cost.show()


def _report(model: Path, exported: Exported) -> dict[str, Any]:
    data = exported.path.read_bytes()
    return {
        "schema": 1,
        "model": str(model),
        "file": str(exported.path),
        "opset": exported.opset,
        "precision": exported.precision,
        "bytes": len(data),
        "fp32_bytes": exported.fp32_size,
        "parity": {
            "max_abs_difference": exported.parity,
            "mean_cosine": exported.mean_cosine,
            "least_cosine": exported.least_cosine,
            "pictures": exported.pictures,
            "calibration_pictures": exported.calibration,
        },
        "files": {str(exported.path): hashlib.sha256(data).hexdigest()},
    }


def _size(exported: Exported) -> str:
    size = f"{exported.path.stat().st_size / 1e6:.1f} MB"
    if exported.precision == "fp32":
        return size
    return f"{size} in {exported.precision}, {exported.fp32_size / 1e6:.1f} MB in fp32"


def _parity(exported: Exported, calibrate: Path | None) -> str:
    if exported.precision == "fp32":
        return (
            f"parity with torch: unit-norm embeddings of {exported.pictures} random pictures differ by at most "
            f"{exported.parity:.1e}"
        )
    pictures = (
        f"{exported.pictures} random pictures"
        if calibrate is None
        else f"{exported.pictures} pictures of {calibrate}, calibrated on {exported.calibration} others"
    )
    return (
        f"cosine to the fp32 embedding: mean {exported.mean_cosine:.5f}, least {exported.least_cosine:.5f}, of "
        f"{pictures}"
    )
