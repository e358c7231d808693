"""Stored models: weights in ``model.safetensors`` and the model card in ``model.json``.

The card states which backbone the weights belong to and how its pictures are prepared: a wrong colour order, mean or
scale raises no error but makes embeddings worse. It also states the SHA-256 of the weights, so that files of two
versions are detected.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from vplface.backbones import build
from vplface.backbones.meta_init import meta_init
from vplface.data.pictures import SIZE, Preprocessing
from vplface.errors import DataError, VplfaceError
from vplface.files import replacing
from vplface.reading import decoded, is_file, is_folder, parse_json, read_bytes
from vplface.run_folder import ModelFolder

MAX_WEIGHTS_BYTES = 8 * 2**30
"""Largest weight file that is read, in bytes."""
CARD_KEY = "model_card"
"""Metadata key of the model card, as JSON, in an ONNX file."""

_SCHEMA = 1
_REQUIRED = ("backbone", "embedding_dim", "preprocessing")
_SAVE_TIMEOUT = 5.0
"""Time to wait for a save in progress, in seconds."""
_MODULES_PER_TENSOR = 20
"""Bound of the number of modules of a backbone per tensor."""
_MAX_MESSAGE = 1000
"""Longest quoted message of torch, in characters."""

_LIMITS = (
    "Research use. Accuracy differs between groups of people, cameras and ages: measure on your own data before a "
    "threshold decides anything about a person. The terms of the training data may restrict its use."
)


@dataclass(frozen=True)
class ModelCard:
    """Description of a model for its users, stored as ``model.json`` beside the weights.

    Attributes:
        backbone: name of the backbone, see :func:`vplface.backbones.build`.
        embedding_dim: dimension d of the embedding.
        backbone_options: keyword arguments of the backbone.
        preprocessing: size, colour order, mean and scale of the backbone's pictures.
        training_data: pictures it was trained on.
        identities: number of people in the training data.
        pictures: number of training pictures.
        step: number of training steps.
        margin: the loss, e.g. ``"ArcFace(scale=64, margin=0.5)"``.
        variational: injection of the prototypes, or None for plain prototypes.
        evaluation: results of this model, by set and metric.
        limits: limits of its use.
        vplface_version: version of vplface that wrote the card.
        weights: SHA-256 of ``model.safetensors``; for an ONNX file, of the one it was exported from; None if unknown.
            Ignored when cards are compared.
    """

    backbone: str
    embedding_dim: int
    backbone_options: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    training_data: str = "not recorded"
    identities: int | None = None
    pictures: int | None = None
    step: int | None = None
    margin: str | None = None
    variational: str | None = None
    evaluation: dict[str, Any] | None = None
    limits: str = _LIMITS
    vplface_version: str = field(default_factory=lambda: importlib.metadata.version("vplface"))
    weights: str | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """The card as a JSON object."""
        values = {
            "schema": _SCHEMA,
            **asdict(self),
            "preprocessing": self.preprocessing.to_dict(),
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelCard:
        """Parse the output of :meth:`to_json`; unknown keys are ignored.

        Args:
            text: the JSON object.
            where: name of the file, for errors.

        Raises:
            DataError: invalid JSON, a missing key, a value of the wrong type, or a card of a later version.
        """
        values = parse_json(text, f"{where}: the model card")
        if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
            raise DataError(f"{where}: not a model card of vplface: it has no 'schema' number")

        if values["schema"] > _SCHEMA:
            raise DataError(
                f"{where}: the card has schema {values['schema']}, this vplface reads up to {_SCHEMA}; upgrade vplface"
            )
        hints = get_type_hints(cls)
        known: dict[str, Any] = {}
        for entry in fields(cls):
            if entry.name not in values:
                if entry.name in _REQUIRED:
                    raise DataError(f"{where}: the model card lacks {entry.name!r}")
                continue
            value = values[entry.name]
            hint = dict if entry.name == "preprocessing" else hints[entry.name]
            if not isinstance(value, _accepted_types(hint)):
                raise DataError(f"{where}: {entry.name!r} of the model card has a wrong value: {value!r}")
            known[entry.name] = value
        try:
            known["preprocessing"] = Preprocessing.from_dict(known["preprocessing"])
        except DataError as error:
            raise DataError(f"{where}: the model card: {error}") from error
        return cls(**known)


def _accepted_types(hint: Any) -> tuple[type, ...]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


@dataclass(frozen=True, eq=False)
class StoredModel:
    """Contents of a model folder.

    Attributes:
        folder: path of the folder.
        card: the model card.
        weights: bytes of ``model.safetensors``.
        files: SHA-256 of the files, by path, the weights first.
    """

    folder: Path
    card: ModelCard
    weights: bytes
    files: Mapping[str, str]

    def backbone(self) -> nn.Module:
        """Build the backbone, in eval mode on the CPU; raises DataError if the weights are damaged or do not fit."""
        card, (weights_path, card_path) = self.card, self.files
        try:
            state = safetensors.torch.load(self.weights)
        except SafetensorError as error:
            raise DataError(f"{weights_path}: damaged: {error}") from error
        if card.preprocessing.size != SIZE:
            raise DataError(
                f"{card_path}: says that pictures are {card.preprocessing.size} pixels wide; every backbone takes "
                f"{SIZE}"
            )
        try:
            # An untrusted card costs neither memory nor time before its weights are seen to match.
            with meta_init(max_modules=_MODULES_PER_TENSOR * (len(state) + _MODULES_PER_TENSOR)):
                backbone = build(card.backbone, card.embedding_dim, **card.backbone_options)
        except (VplfaceError, RuntimeError, OverflowError) as error:
            raise DataError(f"{card_path}: {error}") from error
        expected = backbone.state_dict()
        state = {
            name: tensor.to(expected[name].dtype if name in expected else tensor.dtype)
            for name, tensor in state.items()
        }
        try:
            backbone.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise DataError(
                f"{weights_path}: the weights do not fit {card.backbone} with embedding_dim {card.embedding_dim}, "
                f"which model.json beside them names: {textwrap.shorten(str(error), _MAX_MESSAGE, placeholder=' ...')}"
            ) from error
        if any(buffer.is_meta for buffer in backbone.buffers()):  # not stored, computed from the options
            backbone = build(card.backbone, card.embedding_dim, **card.backbone_options)
            backbone.load_state_dict(state, strict=True)
        return backbone.eval()


def save_model(folder: str | Path, backbone: nn.Module, card: ModelCard) -> None:
    """Write ``model.safetensors``, then ``model.json``, each atomically."""
    paths = ModelFolder(Path(folder))
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in backbone.state_dict().items()}
    with replacing(paths.card) as card_path, replacing(paths.weights) as path:
        data = safetensors.torch.save(state)
        path.write_bytes(data)
        card = replace(card, weights=hashlib.sha256(data).hexdigest())
        card_path.write_text(card.to_json(), encoding="utf-8", errors="backslashreplace")


def load_model(folder: str | Path) -> tuple[nn.Module, ModelCard]:
    """Load the backbone of a model folder, in eval mode on the CPU, and its card.

    Raises:
        DataError: as :func:`read_model`, or the weights do not fit the card.
    """
    stored = read_model(folder)
    return stored.backbone(), stored.card


def read_model(folder: str | Path) -> StoredModel:
    """Read a model folder, after waiting for a save in progress.

    Raises:
        DataError: the folder or a file is missing, damaged or too large, or the files are of two versions.
    """
    folder = Path(folder)
    _require_model(ModelFolder(folder))
    card_path, weights_path = ModelFolder(folder).card, ModelFolder(folder).weights
    deadline, first = time.monotonic() + _SAVE_TIMEOUT, True
    while True:
        text, weights = read_bytes(card_path), read_bytes(weights_path, MAX_WEIGHTS_BYTES)
        card = ModelCard.from_json(decoded(text, card_path), str(card_path))
        digest = hashlib.sha256(weights).hexdigest()
        if card.weights in (None, digest):
            files = {str(weights_path): digest, str(card_path): hashlib.sha256(text).hexdigest()}
            return StoredModel(folder, replace(card, weights=digest), weights, files)
        being_saved = next(folder.glob(f".{card_path.name}.tmp-*"), None) is not None
        if not first and not (being_saved and time.monotonic() < deadline):
            raise DataError(
                f"{weights_path}: damaged, or of another version than {card_path.name} beside it, which states the "
                f"SHA-256 {card.weights[:12]}… for it, not {digest[:12]}…; copy both files of one version, or save the "
                "model again"
            )
        first = False
        time.sleep(0.05)


def _require_model(folder: ModelFolder) -> None:
    if not is_folder(folder.path):
        kept_none = folder.is_best and is_file(folder.run.card)
        last = f"; that run kept no best model, {folder.run.path} is its last one" if kept_none else ""
        raise DataError(f"{folder.path}: no such folder{last}; give a run folder, its folder 'best', or an .onnx file")
    for path in (folder.card, folder.weights):
        if not is_file(path):
            inside = sorted(repr(file.parent.name) for file in folder.path.glob(f"*/{path.name}"))
            there = f" (there is one in its folder{'s' * (len(inside) > 1)} {', '.join(inside)})" if inside else ""
            raise DataError(
                f"{folder.path}: no {path.name} there{there}; a model folder is a run folder, its folder 'best', or "
                "any other with model.json and model.safetensors"
            )
