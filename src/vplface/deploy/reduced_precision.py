"""Conversion of ONNX files to fp16 and to calibrated int8.

fp16 rounds weights and arithmetic to 11 bits; input and output stay float32. It is meant for GPUs. On a CPU onnxruntime
computes most of it in float32, so the file is smaller but not faster.

int8 approximates a tensor x by s·(q − z) with 8-bit q. Weights have a scale s per channel, which the depthwise
convolutions of MobileFaceNet need. Activations have one scale per tensor, from their minimum and maximum over
calibration pictures: static quantisation, which onnxruntime recommends for convolutional networks; it recommends
dynamic quantisation, with ranges measured for each input, for recurrent networks and transformers
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). The file holds pairs of QuantizeLinear
and DequantizeLinear (QDQ), which a runtime without int8 kernels can run too.

The first convolution stays in float32. Pixels prepared as (x − 127.5)/127.5 lie halfway between the values that an int8
input with an integer z can represent, so that a rounding error in the preparation would flip them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import UInt8

from vplface.data.pictures import Picture, PictureSet, Preprocessing, UnreadablePictureError
from vplface.errors import ConfigError, import_extra
from vplface.progress import progress

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

CALIBRATION_PICTURES = 512
MIN_PICTURES = 50
"""Lowest number of calibration pictures; a fifth of them is held out to check the file."""

_BATCH_SIZE = 16


def require_calibration(precision: Precision, calibration: PictureSet | None) -> None:
    """Raise ConfigError for an unknown precision, or if calibration pictures are missing or not needed."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    if precision == "int8" and calibration is None:
        raise ConfigError("int8 needs calibration pictures: aligned faces such as the model will see")

    if precision != "int8" and calibration is not None:
        raise ConfigError(f"calibration pictures are for int8, not for {precision}")


def sample_calibration(
    calibration: PictureSet,
) -> tuple[UInt8[np.ndarray, "n size size 3"], UInt8[np.ndarray, "m size size 3"]]:
    """Choose at most 512 pictures for calibration and a quarter as many for the check, always the same ones.

    Raises:
        ConfigError: fewer than 50 pictures can be read.
    """
    chosen: list[Picture] = []
    most = CALIBRATION_PICTURES * 5 // 4
    for index in np.random.default_rng(0).permutation(len(calibration)):
        try:
            chosen.append(calibration.picture(int(index)))
        except UnreadablePictureError:
            continue
        if len(chosen) == most:
            break
    if len(chosen) < MIN_PICTURES:
        raise ConfigError(
            f"calibration: {len(chosen)} pictures can be read, and int8 needs at least {MIN_PICTURES}; a few "
            "hundred of many people are better"
        )
    kept = len(chosen) // 5
    return np.stack(chosen[kept:]), np.stack(chosen[:kept])


def to_fp16(source: Path, target: Path) -> None:
    """Write the float32 model at ``source`` with weights and arithmetic in float16, input and output in float32."""
    onnx = import_extra("onnx", "onnx")
    float16 = import_extra("onnxruntime.transformers.float16", "onnx")
    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def to_int8(
    source: Path, target: Path, preprocessing: Preprocessing, pictures: UInt8[np.ndarray, "n size size 3"]
) -> None:
    """Write the float32 model at ``source`` in int8, with ranges of activations from ``pictures``."""
    quantization = import_extra("onnxruntime.quantization", "onnx")
    shape_inference = import_extra("onnxruntime.quantization.shape_inference", "onnx")
    with (
        TemporaryDirectory(prefix="vplface-int8-") as scratch,
        progress("calibrating", len(pictures)) as advance,
    ):
        folded = Path(scratch) / "folded.onnx"
        shape_inference.quant_pre_process(source, folded, skip_symbolic_shape=True)
        nodes = import_extra("onnx", "onnx").load(folded).graph.node

        def batches() -> Iterator[dict[str, Any]]:
            for some in np.array_split(pictures, -(-len(pictures) // _BATCH_SIZE)):
                yield {"input": np.ascontiguousarray(preprocessing(torch.from_numpy(some)).numpy())}
                advance(len(some))

        class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                self._batches = batches()

            def get_next(self) -> dict[str, Any] | None:
                return next(self._batches, None)

        quantization.quantize_static(
            folded,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[node.name for node in nodes if "input" in node.input],
        )
