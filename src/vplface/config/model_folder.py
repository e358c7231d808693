"""Keys of the section ``backbone`` that follow from a run folder, or another folder that holds a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vplface.backbones import ONNX
from vplface.config.conversion import as_expected
from vplface.errors import DataError
from vplface.reading import is_file, is_folder, read_text
from vplface.run_folder import ModelFolder
from vplface.stored_model import ModelCard


def with_card(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of a backbone whose ``weights`` are a folder, with what the card there says.

    Network, embedding dimension and preprocessing are facts of the model; options of the section are added to those of
    the card. The name ``onnx``, that of the recipes for any model, gives way to that of the card. A section whose
    weights are a file is returned unchanged.

    Raises:
        ValueError: the folder holds no model, or one of another backbone.
    """
    path = as_expected(Path, values.get("weights"))
    options = values.get("options") or {}
    if path is None or not is_folder(str(path)) or not isinstance(options, Mapping):
        return values
    folder = ModelFolder(Path(str(path)))
    if not is_file(folder.card):
        raise ValueError(f"weights: {path} is a folder without {ModelFolder.card.name}; give a run folder, or its best")
    try:
        card = ModelCard.from_json(read_text(folder.card), str(folder.card))
    except DataError as error:
        raise ValueError(f"weights: {error}") from error
    name = values.get("name", card.backbone)
    if name not in (ONNX, card.backbone):
        raise ValueError(
            f"weights: {path} holds a model of backbone {card.backbone}, not {name}; leave out backbone.name"
        )
    preprocessing = values.get("preprocessing")
    return {
        **values,
        "name": card.backbone,
        "embedding_dim": card.embedding_dim,
        "options": {**card.backbone_options, **options},
        "preprocessing": card.preprocessing.to_dict() if preprocessing is None else preprocessing,
        "weights": str(folder.weights),
    }
