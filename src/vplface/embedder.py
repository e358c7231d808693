"""Any model, a folder or an ONNX file, behind one call: pictures in, embeddings of unit norm out.

A model folder holds ``model.safetensors``, the weights, and ``model.json``, the card: which backbone they belong to and
how a picture is prepared for it. Colour order, mean and scale travel with the model because a wrong one goes unnoticed:
the embeddings are only worse. The card states the SHA-256 of the weights, so that files of two versions are noticed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from vplface.backbones import build
from vplface.backbones.meta_init import meta_init
from vplface.backbones.onnx import OnnxNetwork
from vplface.data.batches import load_all
from vplface.data.pictures import SIZE, Picture, PictureSet, Preprocessing, decode, read_picture_file
from vplface.errors import DataError, VplfaceError
from vplface.files import replacing
from vplface.progress import progress
from vplface.reading import decoded, is_file, is_folder, parse_json, read_bytes
from vplface.run_folder import ModelFolder

WEIGHTS_LIMIT = 8 * 2**30
"""The largest file of weights that is read, in bytes."""
CARD_KEY = "model_card"
"""The key of an ONNX file's metadata under which its card is kept, as JSON."""

Flip = Literal["none", "sum"]
"""``"sum"`` adds the raw embedding of the mirrored picture before the norm is taken."""

_SCHEMA = 1
_REQUIRED = ("backbone", "embedding_dim", "preprocessing")
_BATCH_SIZE = 64
_PATIENCE = 5.0
"""Seconds to wait for a save that is in progress."""
_PARTS_A_TENSOR = 20
"""No backbone has so many parts for each of its tensors."""
_LONGEST = 1000
"""Of a message of torch's, letters."""

_LIMITS = (
    "Research use. Accuracy differs between groups of people, cameras and ages: measure on your own data before a "
    "threshold decides anything about a person. The terms of the training data may restrict what the model is used for."
)


@dataclass(frozen=True)
class ModelCard:
    """What a user of a model must know about it; ``model.json`` beside the weights.

    Attributes:
        backbone: name, for :func:`vplface.backbones.build`.
        embedding_dim: d.
        backbone_options: options, for the same.
        preprocessing: size, colour order, mean and scale of the pictures that the backbone takes.
        training_data: which pictures it was trained on.
        identities: how many people these show.
        pictures: how many they are.
        step: training steps behind these weights.
        margin: the loss, e.g. ``"ArcFace(scale=64, margin=0.5)"``.
        variational: the prototypes' injection, or None for plain prototypes.
        evaluation: figures of this very model, by set and metric.
        limits: what it should not be used for.
        vplface_version: the version that wrote it.
        weights: SHA-256 of ``model.safetensors``, for an ONNX file of the one that it was exported from; None if that
            is not known. Cards that differ in it alone are equal.
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
        """Read what :meth:`to_json` wrote; keys that are not known are ignored.

        Args:
            text: the JSON object.
            where: the file it is from, for errors.

        Raises:
            DataError: no JSON, a missing key, a value of the wrong type, or a card of a later version.
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
            if not isinstance(value, _classes(hint)):
                raise DataError(f"{where}: {entry.name!r} of the model card has a wrong value: {value!r}")
            known[entry.name] = value
        try:
            known["preprocessing"] = Preprocessing.from_dict(known["preprocessing"])
        except DataError as error:
            raise DataError(f"{where}: the model card: {error}") from error
        return cls(**known)


def _classes(hint: Any) -> tuple[type, ...]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


@dataclass(frozen=True, eq=False)
class StoredModel:
    """The files of a model folder, both of one version, as they were read.

    Attributes:
        folder: where they were.
        card: of the model.
        weights: the bytes of ``model.safetensors``.
        files: SHA-256 of what was read, by path, the weights first.
    """

    folder: Path
    card: ModelCard
    weights: bytes
    files: Mapping[str, str]

    def backbone(self) -> nn.Module:
        """The backbone, in eval mode on the CPU; raises DataError for weights that are damaged or do not fit."""
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
            # What a card from elsewhere claims takes neither memory nor time until the weights bear it out.
            with meta_init(max_modules=_PARTS_A_TENSOR * (len(state) + _PARTS_A_TENSOR)):
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
                f"which model.json beside them names: {textwrap.shorten(str(error), _LONGEST, placeholder=' ...')}"
            ) from error
        if any(buffer.is_meta for buffer in backbone.buffers()):  # those that follow from the options, not stored
            backbone = build(card.backbone, card.embedding_dim, **card.backbone_options)
            backbone.load_state_dict(state, strict=True)
        return backbone.eval()


def save_model(folder: str | Path, backbone: nn.Module, card: ModelCard) -> None:
    """Write ``model.safetensors`` and ``model.json``, each atomically; the card last, so that a card has weights."""
    place = ModelFolder(Path(folder))
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in backbone.state_dict().items()}
    with replacing(place.card) as card_path, replacing(place.weights) as path:
        data = safetensors.torch.save(state)
        path.write_bytes(data)
        card = replace(card, weights=hashlib.sha256(data).hexdigest())
        card_path.write_text(card.to_json(), encoding="utf-8", errors="backslashreplace")


def load_model(folder: str | Path) -> tuple[nn.Module, ModelCard]:
    """The backbone of a model folder, in eval mode on the CPU, and its card.

    Raises:
        DataError: as :func:`read_model`, and for weights that do not fit the card.
    """
    stored = read_model(folder)
    return stored.backbone(), stored.card


def read_model(folder: str | Path) -> StoredModel:
    """The files of a model folder. While the model is being saved there, this waits for the end of it.

    Raises:
        DataError: no such folder, a file of it missing, damaged or too large, or files of two versions.
    """
    folder = Path(folder)
    _require_model(ModelFolder(folder))
    card_path, weights_path = ModelFolder(folder).card, ModelFolder(folder).weights
    deadline, first = time.monotonic() + _PATIENCE, True
    while True:
        text, weights = read_bytes(card_path), read_bytes(weights_path, WEIGHTS_LIMIT)
        card = ModelCard.from_json(decoded(text, card_path), str(card_path))
        found = hashlib.sha256(weights).hexdigest()
        if card.weights in (None, found):
            files = {str(weights_path): found, str(card_path): hashlib.sha256(text).hexdigest()}
            return StoredModel(folder, replace(card, weights=found), weights, files)
        being_saved = next(folder.glob(f".{card_path.name}.tmp-*"), None) is not None
        if not first and not (being_saved and time.monotonic() < deadline):
            raise DataError(
                f"{weights_path}: damaged, or of another version than {card_path.name} beside it, which states the "
                f"SHA-256 {card.weights[:12]}… for it, not {found[:12]}…; copy both files of one version, or save the "
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
            inside = sorted(repr(found.parent.name) for found in folder.path.glob(f"*/{path.name}"))
            there = f" (there is one in its folder{'s' * (len(inside) > 1)} {', '.join(inside)})" if inside else ""
            raise DataError(
                f"{folder.path}: no {path.name} there{there}; a model folder is a run folder, its folder 'best', or "
                "any other with model.json and model.safetensors"
            )


def read_picture(path: str | Path, size: int = SIZE) -> Picture:
    """The picture in a file; raises UnreadablePictureError with its path and the reason."""
    return decode(read_picture_file(path), str(path), size)


class Embedder:
    """f(x)/‖f(x)‖ of pictures x, or (f(x) + f(mirrored x))/‖·‖.

    Args:
        forward: prepared pictures [n, 3, size, size] on ``device`` → raw embeddings [n, d].
        card: the card of the model behind ``forward``.
        device: where ``forward`` wants its input.
        files: SHA-256 of the bytes that the model was loaded from, by path, the weights first; empty for a backbone
            that is in no file.
    """

    def __init__(
        self,
        forward: Callable[[Float[Tensor, "n 3 size size"]], Float[Tensor, "n dim"]],
        card: ModelCard,
        device: str | torch.device = "cpu",
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.card = card
        self.files = dict(files or {})
        self.dim = card.embedding_dim
        self._forward = forward
        self._device = torch.device(device)

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", preprocessing: Preprocessing | None = None
    ) -> Embedder:
        """The model at ``path``.

        Args:
            path: a model folder (a run, or its ``best``), or an ``.onnx`` file.
            device: ``"cpu"``, ``"cuda"``, ...
            preprocessing: overrides the card's; needed for an ONNX file that vplface did not export, which has no card.

        Raises:
            DataError: nothing usable at ``path``.
            MissingExtraError: an ONNX file without the extra ``onnx``.
            VplfaceError: the device is not there.
        """
        path = Path(path)
        try:
            device = torch.device(device)
            if path.suffix != ".onnx":
                torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise VplfaceError(f"device {device}: {str(error).splitlines()[0]}; use device cpu") from error
        if path.suffix == ".onnx":
            network, card = _load_onnx(path, device, preprocessing)
            return cls(network, card, files=network.files)
        if is_file(path):
            raise DataError(f"{path}: give the model's folder or an .onnx file, not a file of that folder")
        stored = read_model(path)
        card = stored.card if preprocessing is None else replace(stored.card, preprocessing=preprocessing)
        return cls.from_backbone(stored.backbone().to(device), card, stored.files)

    @classmethod
    def from_backbone(cls, backbone: nn.Module, card: ModelCard, files: Mapping[str, str] | None = None) -> Embedder:
        """A backbone as it is, also in the middle of its training: used in eval mode and put back after each batch."""

        def forward(x: Tensor) -> Tensor:
            training = backbone.training
            backbone.eval()
            try:
                with torch.inference_mode():
                    embeddings: Tensor = backbone(x)
            finally:
                backbone.train(training)
            return embeddings

        return cls(forward, card, next(backbone.parameters()).device, files)

    @property
    def weights(self) -> str | None:
        """SHA-256 of the weights or the ``.onnx`` file that were loaded; None for a backbone that is in no file."""
        return next(iter(self.files.values()), None)

    def __call__(
        self,
        pictures: Picture | str | Path | Sequence[Picture | str | Path],
        flip: Flip = "none",
        names: Sequence[str] | None = None,
    ) -> Float[np.ndarray, "n dim"]:
        """Embeddings of one or several pictures, float32 of unit norm; one picture gives n = 1.

        Args:
            pictures: uint8 RGB arrays of the model's size (one [n, size, size, 3] array will do), or files of any size.
            flip: see :data:`Flip`.
            names: what to call the pictures in an error; None for their paths or positions.

        Raises:
            UnreadablePictureError: a file that is missing or no picture.
            DataError: an embedding that is zero or not finite; the picture is named.
            ValueError: an array of another shape or type.
        """
        if isinstance(pictures, str | Path) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
            pictures = [pictures]
        items = list(pictures)
        batches = (
            torch.from_numpy(np.stack([self._read(item) for item in items[start : start + _BATCH_SIZE]]))
            for start in range(0, len(items), _BATCH_SIZE)
        )

        def name(position: int) -> str:
            if names is not None:
                return names[position]
            item = items[position]
            return str(item) if isinstance(item, str | Path) else f"picture {position}"

        return self._embed(batches, len(items), name, flip, "embedding")

    def embed_set(
        self,
        pictures: PictureSet,
        indices: Int64[np.ndarray, " n"] | None = None,
        flip: Flip = "none",
        batch_size: int = 128,
        workers: int = 0,
        description: str = "embedding",
        unit: bool = True,
    ) -> Float[np.ndarray, "n dim"]:
        """Embeddings of a picture set, or of some of it, in order; float32, of unit norm unless told otherwise.

        Args:
            pictures: the set.
            indices: which pictures; None for all.
            flip: see :data:`Flip`.
            batch_size: pictures per forward pass.
            workers: processes that decode pictures; 0 for this one.
            description: of the progress bar, which appears when the work takes over two seconds.
            unit: whether embeddings are brought to unit norm.

        Raises:
            DataError: a picture that cannot be read, or an embedding that is zero or not finite; it is named.
        """
        chosen = np.arange(len(pictures)) if indices is None else indices
        batches = (batch.pictures for batch in load_all(pictures, chosen, batch_size, workers))
        return self._embed(
            batches, len(chosen), lambda position: pictures.name(int(chosen[position])), flip, description, unit
        )

    def _read(self, item: Any) -> Picture:
        size = self.card.preprocessing.size
        if isinstance(item, str | Path):
            return read_picture(item, size)
        picture = np.asarray(item)
        if picture.dtype != np.uint8 or picture.shape != (size, size, 3):
            raise ValueError(
                f"pictures given as arrays must be uint8 RGB of shape ({size}, {size}, 3), "
                f"got {picture.dtype} {picture.shape}"
            )
        return picture

    def _embed(
        self,
        batches: Iterable[UInt8[Tensor, "n size size 3"]],
        total: int,
        name: Callable[[int], str],
        flip: Flip,
        description: str,
        unit: bool = True,
    ) -> Float[np.ndarray, "total dim"]:
        if flip not in get_args(Flip):
            raise ValueError(f"flip must be one of {', '.join(get_args(Flip))}, got {flip!r}")
        embeddings = np.empty((total, self.dim), np.float32)
        done = 0
        with progress(description, total) as advance:
            for pictures in batches:
                raw = self._raw(pictures, flip)
                norms = raw.norm(dim=1, keepdim=True)
                wrong = (~(norms.isfinite() & (norms > 0))).flatten().nonzero().flatten().tolist()
                if wrong:
                    what = "zero" if norms[wrong[0]] == 0 else "not finite"
                    raise DataError(
                        f"{name(done + wrong[0])}: its embedding is {what}, one of {len(wrong)} such in a batch of "
                        f"{len(raw)}; the weights are damaged, or the training that made them diverged"
                    )
                embeddings[done : done + len(raw)] = (raw / norms if unit else raw).numpy()
                done += len(raw)
                advance(len(raw))
        return embeddings

    def _raw(self, pictures: UInt8[Tensor, "n size size 3"], flip: Flip) -> Float[Tensor, "n dim"]:
        x = self.card.preprocessing(pictures.to(self._device))
        raw = self._forward(x)
        if flip == "sum":
            raw = raw + self._forward(x.flip(-1))
        if raw.shape != (len(pictures), self.dim):
            raise DataError(
                f"the model gives embeddings of shape {tuple(raw.shape)}, its card says {(len(pictures), self.dim)}"
            )
        return raw.cpu().double()  # the norm of large float32 embeddings must not overflow


def _load_onnx(path: Path, device: torch.device, preprocessing: Preprocessing | None) -> tuple[OnnxNetwork, ModelCard]:
    network = OnnxNetwork(path, device)
    text = network.metadata.get(CARD_KEY)
    card = None if text is None else ModelCard.from_json(text, str(path))
    if preprocessing is None:
        if card is None:
            raise DataError(
                f"{path}: this ONNX file has no model card, vplface did not export it; say how its pictures are "
                "prepared (--color, --mean and --std of the commands)"
            )
        preprocessing = card.preprocessing
    if network.takes_uint8 and not preprocessing.keeps_bytes:
        raise DataError(
            f"{path}: takes pixels in uint8 and prepares them itself; say so with --mean 0,0,0 "
            "--std 0.0039215686,0.0039215686,0.0039215686"
        )
    network.try_out(preprocessing.size, None if card is None else card.embedding_dim)
    if card is None:
        return network, ModelCard("onnx", network.dim, preprocessing=preprocessing)
    return network, replace(card, preprocessing=preprocessing)
