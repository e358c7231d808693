"""Loader of weights from ONNX files, checked against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import normalize

from vplface.backbones.onnx import OnnxNetwork
from vplface.backbones.onnx_graph.network import SIZE, OnnxBackbone
from vplface.backbones.onnx_graph.read import read_graph
from vplface.backbones.onnx_graph.structure import load_by_structure
from vplface.errors import DataError

TOLERANCE = 1e-4
"""Largest difference of a coordinate between the unit-norm embeddings of torch and onnxruntime."""
HALF_FLOOR = 0.999
"""Lowest cosine between them for a file that computes in float16, whose weights torch trains in float32."""
_PICTURES = 3


def from_onnx(path: str | Path, norm: Literal["none", "fresh"] = "none") -> OnnxBackbone:
    """The network of an ONNX file as a backbone with the file's weights.

    Args:
        path: the file. Its input takes pictures of 112×112, one of its outputs is the embedding.
        norm: see :class:`OnnxBackbone`.

    Raises:
        ConfigError: ``norm`` is ``"fresh"``, but nothing is folded.
        DataError: as :func:`load_onnx`.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    file = read_graph(Path(path))
    backbone = OnnxBackbone(file.dim, file.graph.to_text(), norm)
    load_onnx(backbone, path)
    return backbone


def load_onnx(backbone: nn.Module, path: str | Path) -> None:
    """Load the weights of an ONNX file, all or none.

    An :class:`OnnxBackbone` takes those of its own file. Any other backbone takes those of a file with the same
    structure; BatchNorm that is folded there is restored as one that changes nothing, and is without statistics until
    :func:`vplface.backbones.folded_norm.measure_statistics`.

    Raises:
        DataError: the file is missing or damaged, has an operator that is not supported or another structure, or the
            embeddings in evaluation differ from onnxruntime's.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    path = Path(path)
    file = read_graph(path)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    title = type(backbone).__name__
    if isinstance(backbone, OnnxBackbone):
        if file.graph.to_text() != backbone.graph:
            raise DataError(f"{path}: holds another network than backbone.options.graph; leave that option out")
        backbone.load_tensors(file.tensors)
    else:
        try:
            load_by_structure(backbone, file, title)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    try:
        _require_same_embeddings(backbone, path, file.dim, half=file.half)
    except DataError:
        backbone.load_state_dict(before)
        raise


@torch.no_grad()
def _require_same_embeddings(backbone: nn.Module, path: Path, dim: int, *, half: bool) -> None:
    network = OnnxNetwork(path)
    network.try_out(SIZE, dim)
    pictures = torch.rand(_PICTURES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    pictures = (255 * pictures).round() if network.takes_uint8 else 2 * pictures - 1
    training = backbone.training
    backbone.eval()
    try:
        found = normalize(backbone(pictures.to(next(backbone.parameters()).device)).cpu().double(), dim=1)
    finally:
        backbone.train(training)
    expected = normalize(network(pictures).double(), dim=1)
    if not bool(expected.isfinite().all()):
        raise DataError(f"{path}: its embeddings of random pictures are NaN or infinite; the weights are damaged")
    difference, cosine = float((found - expected).abs().max()), float((found * expected).sum(1).min())
    if not (cosine >= HALF_FLOOR if half else difference <= TOLERANCE):
        raise DataError(
            f"{path}: torch's embeddings differ from onnxruntime's by {difference:.2g} a coordinate (least cosine "
            f"{cosine:.4f}); the network is not one of {type(backbone).__name__}, or please report this file"
        )
