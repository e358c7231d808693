"""Export to ONNX, checked: a file is only left behind if onnxruntime computes what torch does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from vplface.embedder import CARD_KEY, Embedder, load_model
from vplface.errors import ConfigError, VplfaceError, import_extra
from vplface.files import replacing
from vplface.progress import progress

OPSETS = range(18, 24)
"""The opset versions offered: from what torch's exporter writes to what the tested onnxruntime reads."""

BATCH_SIZES = (1, 2, 7)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """An ONNX file and how it was checked.

    Attributes:
        path: the file. Input ``input`` [batch, 3, size, size], output ``embedding`` [batch, dim], not normalised; the
            model card is in its metadata under ``model_card``.
        opset: version of the ONNX operators.
        parity: largest difference of a coordinate between the unit-norm embeddings of torch and onnxruntime.
        pictures: how many random pictures were compared.
    """

    path: Path
    opset: int
    parity: float
    pictures: int


def export(model: str | Path, path: str | Path, opset: int = OPSETS[0]) -> Exported:
    """Write a model folder as one ONNX file with a dynamic batch size, and check it with onnxruntime.

    Args:
        model: a model folder (a run, or its ``best``).
        path: the file to write, ending in ``.onnx``; replaced only if the check passes.
        opset: one of :data:`OPSETS`.

    Raises:
        ConfigError: another file name, or an opset that is not offered.
        DataError: no model in the folder.
        MissingExtraError: without the extra ``onnx``.
        VplfaceError: the exporter fails, or onnxruntime differs from torch by more than 1e-4 in a
            coordinate of a unit-norm embedding.
    """
    import_extra("onnxruntime", "onnx")
    import_extra("onnxscript", "onnx")
    path = Path(path)
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: the name of an ONNX file must end in .onnx")
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset}: choose one of {OPSETS[0]} to {OPSETS[-1]}")
    backbone, card = load_model(model)
    size = card.preprocessing.size
    with progress(f"exporting {path.name}", 2) as advance, replacing(path) as temporary:
        try:
            _write(backbone, temporary, opset, size, card.to_json())
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().partition("\n")[0]
            raise VplfaceError(f"{path}: torch cannot export {card.backbone} at opset {opset}: {reason}") from error
        advance(1)
        pictures = _pictures(sum(BATCH_SIZES), size)
        ours, theirs = Embedder.from_backbone(backbone, card), Embedder.load(temporary)
        parity = max(
            float(np.abs(ours(some) - theirs(some)).max()) for some in np.split(pictures, np.cumsum(BATCH_SIZES)[:-1])
        )
        if parity > TOLERANCE:
            raise VplfaceError(
                f"{path}: not written: onnxruntime's embeddings differ from torch's by {parity:.2g}, more than "
                f"{TOLERANCE:g}; try another opset, and please report this model"
            )
        advance(1)
    return Exported(path, opset, parity, len(pictures))


def _write(backbone: torch.nn.Module, path: Path, opset: int, size: int, card: str) -> None:
    passes = import_extra("onnx_ir.passes.common", "onnx")
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
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
def _quiet(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _pictures(count: int, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Random pictures of patches, coarse to fine, so that their embeddings differ from each other."""
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
