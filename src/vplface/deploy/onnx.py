"""Export to ONNX with a parity check: a file is kept only if onnxruntime agrees with torch.

In fp32 both agree to rounding error. For fp16 and int8 the result reports how close they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from vplface.data.pictures import PictureSet
from vplface.deploy.reduced_precision import Precision, require_calibration, sample_calibration, to_fp16, to_int8
from vplface.embedder import Embedder
from vplface.errors import ConfigError, VplfaceError, import_extra
from vplface.files import replacing
from vplface.progress import progress
from vplface.stored_model import CARD_KEY, load_model

OPSETS = range(18, 24)
"""Supported opset versions: from the lowest of torch's exporter to the highest of the tested onnxruntime."""

BATCH_SIZES = (1, 2, 7)
TOLERANCE = 1e-4
"""Largest allowed difference of a coordinate between unit-norm embeddings of torch and an fp32 file."""

FP16_FLOOR = 0.999
"""Lowest allowed cosine between the embeddings of a picture by torch and by an fp16 file."""

INT8_FLOOR = 0.95
"""Lowest allowed mean of these cosines for an int8 file, over pictures it was not calibrated on."""


@dataclass(frozen=True)
class Exported:
    """ONNX file and its deviation from torch in float32.

    Attributes:
        path: the file. Input ``input`` [batch, 3, size, size], output ``embedding`` [batch, dim], not normalised, both
            float32 whatever the precision inside; the model card is in its metadata under ``model_card``.
        opset: version of the ONNX operators.
        precision: of weights and arithmetic.
        parity: largest difference of a coordinate between the unit-norm embeddings.
        mean_cosine: mean cosine between the embeddings of a picture.
        least_cosine: lowest of these cosines.
        pictures: number of compared pictures: random ones, or for int8 real ones.
        calibration: number of pictures used to calibrate an int8 file; None for other precisions.
        fp32_size: size of the same model in fp32, in bytes.
    """

    path: Path
    opset: int
    precision: Precision
    parity: float
    mean_cosine: float
    least_cosine: float
    pictures: int
    calibration: int | None
    fp32_size: int


def export(
    model: str | Path,
    path: str | Path,
    opset: int = OPSETS[0],
    precision: Precision = "fp32",
    calibration: PictureSet | None = None,
) -> Exported:
    """Write a model folder as one ONNX file with a dynamic batch size, and check it with onnxruntime.

    A file in fp16 or int8 embeds differently, so its card carries no figures of the fp32 model.

    Args:
        model: model folder (a run, or its ``best``).
        path: file to write, ending in ``.onnx``; replaced only if the check passes.
        opset: one of :data:`OPSETS`.
        precision: see :mod:`vplface.deploy.reduced_precision`.
        calibration: aligned faces such as the model will see, needed for int8: activation ranges are measured on at
            most 512 of them, and the file is checked on a quarter as many others.

    Raises:
        ConfigError: an unsupported file name, opset or precision, or calibration pictures that are missing, too few,
            or not needed.
        DataError: there is no model in the folder.
        MissingExtraError: the extra ``onnx`` is not installed.
        VplfaceError: the exporter fails, or the file is too far from torch: in fp32 if a coordinate of a unit-norm
            embedding differs by more than 1e-4; in fp16 if a cosine to torch's embedding is below .999; in int8 if
            the mean of these cosines is below .95.
    """
    import_extra("onnxruntime", "onnx")
    import_extra("onnxscript", "onnx")
    path = Path(path)
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: the name of an ONNX file must end in .onnx")
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset}: choose one of {OPSETS[0]} to {OPSETS[-1]}")
    require_calibration(precision, calibration)
    backbone, card = load_model(model)
    size = card.preprocessing.size
    exported_card = card if precision == "fp32" else replace(card, evaluation=None)
    calibrated, pictures = (
        sample_calibration(calibration) if calibration is not None else (None, _random_pictures(sum(BATCH_SIZES), size))
    )
    with (
        progress(f"exporting {path.name}", 3) as advance,
        TemporaryDirectory(prefix="vplface-export-") as scratch,
        replacing(path) as temporary,
    ):
        fp32_path = temporary if precision == "fp32" else Path(scratch) / "fp32.onnx"
        with _exporter_errors(f"{path}: torch cannot export {card.backbone} at opset {opset}"):
            _export_fp32(backbone, fp32_path, opset, size, exported_card.to_json())
        fp32_size = fp32_path.stat().st_size
        advance(1)
        if precision == "fp16":
            to_fp16(fp32_path, temporary)
        elif calibrated is not None:
            to_int8(fp32_path, temporary, card.preprocessing, calibrated)
        advance(1)
        comparison = _compare(Embedder.from_backbone(backbone, card), Embedder.load(temporary), pictures)
        calibration_size = None if calibrated is None else len(calibrated)
        exported = Exported(path, opset, precision, **comparison, calibration=calibration_size, fp32_size=fp32_size)
        _require_parity(exported)
        advance(1)
    return exported


def _compare(
    torch_model: Embedder, onnx_model: Embedder, pictures: UInt8[np.ndarray, "n size size 3"]
) -> dict[str, Any]:
    """Differences between the embeddings of two models, in batches of several sizes."""
    batches = np.split(pictures, np.cumsum(BATCH_SIZES))
    expected = np.concatenate([torch_model(batch) for batch in batches])
    actual = np.concatenate([onnx_model(batch) for batch in batches])
    cosines = (expected.astype(np.float64) * actual).sum(1)
    return {
        "parity": float(np.abs(expected - actual).max()),
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
        "pictures": len(pictures),
    }


def _require_parity(exported: Exported) -> None:
    """Raise VplfaceError if a file deviates from torch by more than its precision allows."""
    where = f"{exported.path}: not written:"
    if exported.precision == "fp32" and exported.parity > TOLERANCE:
        raise VplfaceError(
            f"{where} onnxruntime's embeddings differ from torch's by {exported.parity:.2g}, more than {TOLERANCE:g}; "
            "try another opset, and please report this model"
        )
    if exported.precision == "fp16" and exported.least_cosine < FP16_FLOOR:
        raise VplfaceError(
            f"{where} the least cosine between embeddings in fp16 and fp32 is {exported.least_cosine:.4f}, below "
            f"{FP16_FLOOR}; its activations leave the range of fp16, so keep fp32"
        )
    if exported.precision == "int8" and exported.mean_cosine < INT8_FLOOR:
        raise VplfaceError(
            f"{where} the mean cosine between embeddings in int8 and fp32 is {exported.mean_cosine:.3f}, below "
            f"{INT8_FLOOR}; calibrate on pictures like those it will see, or keep fp16"
        )


def _export_fp32(backbone: torch.nn.Module, path: Path, opset: int, size: int, card: str) -> None:
    passes = import_extra("onnx_ir.passes.common", "onnx")
    with warnings.catch_warnings(), _quiet_logger("torch.onnx"):
        warnings.simplefilter("ignore")  # about the exporter's own internals
        program = torch.onnx.export(
            backbone,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=["input"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    passes.ClearMetadataAndDocStringPass()(program.model)  # stack traces with paths of this machine
    program.model.metadata_props[CARD_KEY] = card
    program.save(path, external_data=False)


@contextmanager
def _exporter_errors(message: str) -> Iterator[None]:
    """Raise errors of torch's exporter as VplfaceErrors."""
    try:
        yield
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise VplfaceError(f"{message}: {reason}") from error


@contextmanager
def _quiet_logger(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _random_pictures(count: int, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Random patch patterns, coarse to fine, so that their embeddings differ."""
    rng = np.random.default_rng(0)
    sides = [size // patches for patches in (2, 4, 8, 16)]
    return np.stack(
        [
            np.kron(
                rng.integers(0, 256, (-(-size // side), -(-size // side), 3), np.uint8),
                np.ones((side, side, 1), np.uint8),
            )[:size, :size]
            for side in (sides[index % len(sides)] for index in range(count))
        ]
    )
