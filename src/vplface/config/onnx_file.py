"""Keys of the section ``backbone`` that follow from an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vplface.backbones import ONNX
from vplface.backbones.onnx_graph import read_graph
from vplface.config.conversion import as_expected
from vplface.data.pictures import Preprocessing
from vplface.errors import DataError
from vplface.stored_model import CARD_KEY, ModelCard


def with_graph(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of a backbone ``onnx``, with the graph, the embedding dimension and the preprocessing of its file.

    The embedding dimension is a fact of the file, and replaces that of the recipe, which may be of another backbone. A
    section that already has a graph is returned unchanged: that of a run does not need its file any more.

    Raises:
        ValueError: there is no file, it cannot be trained, or its preprocessing is not known.
    """
    options = values.get("options") or {}
    if values.get("name") != ONNX or not isinstance(options, Mapping) or "graph" in options:
        return values
    path = as_expected(Path, values.get("weights"))
    if path is None:
        raise ValueError(f"backbone {ONNX} is the network of a file; set backbone.weights to an .onnx file")
    path = Path(str(path))
    try:
        status = path.stat() if path.is_file() else None
        graph, dim, takes_uint8, card = _read(path, status and status.st_mtime_ns, status and status.st_size)
    except (DataError, OSError) as error:
        raise ValueError(f"weights: {error}") from error
    preprocessing = values.get("preprocessing")
    if preprocessing is None and card is not None:
        preprocessing = card.preprocessing.to_dict()
    if preprocessing is None:
        raise ValueError(
            f"{path} has no model card, since vplface did not export it; say how it takes its pictures, e.g."
            " backbone.preprocessing={color: rgb, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]} for those of insightface"
        )
    found = {**values, "options": {**options, "graph": graph}, "embedding_dim": dim, "preprocessing": preprocessing}
    if takes_uint8 and not _keeps_uint8(preprocessing):
        raise ValueError(
            f"{path} takes uint8 pixels and prepares them itself; set backbone.preprocessing={{mean: [0, 0, 0], std:"
            " [0.0039215686, 0.0039215686, 0.0039215686]}}"
        )
    return found


def _keeps_uint8(preprocessing: object) -> bool:
    """Whether a preprocessing keeps pixels of 0 to 255; True for one that the section will refuse."""
    try:
        known = Preprocessing(**preprocessing) if isinstance(preprocessing, Mapping) else preprocessing
    except (TypeError, ValueError):
        return True
    return not isinstance(known, Preprocessing) or known.keeps_uint8


@lru_cache(maxsize=1)
def _read(path: Path, modified: int | None, size: int | None) -> tuple[str, int, bool, ModelCard | None]:
    """Graph, embedding dimension, whether pixels are uint8, and the card; modified and size identify the version."""
    file = read_graph(path)
    text = file.metadata.get(CARD_KEY)
    card = None if text is None else ModelCard.from_json(text, str(path))
    return file.graph.to_text(), file.dim, file.takes_uint8, card
