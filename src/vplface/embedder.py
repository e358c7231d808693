"""Embedder of pictures, from a model folder or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from vplface.backbones.onnx import OnnxNetwork
from vplface.data.batches import load_all
from vplface.data.pictures import SIZE, PictureSet, Preprocessing, decode, read_picture_file
from vplface.errors import DataError, VplfaceError
from vplface.progress import progress
from vplface.reading import is_file
from vplface.stored_model import CARD_KEY, ModelCard, load_model, read_model, save_model

__all__ = ["Embedder", "Flip", "ModelCard", "load_model", "read_picture", "save_model"]

Flip = Literal["none", "sum"]
"""``"sum"`` adds the raw embedding of the mirrored picture before normalisation."""

_BATCH_SIZE = 64

_Picture: TypeAlias = UInt8[np.ndarray, "size size 3"]


def read_picture(path: str | Path, size: int = SIZE) -> _Picture:
    """Read and decode a picture; raises UnreadablePictureError with its path and the reason."""
    return decode(read_picture_file(path), str(path), size)


class Embedder:
    """Maps pictures x to unit-norm embeddings f(x)/‖f(x)‖, or with flip to (f(x) + f(mirrored x))/‖·‖.

    Args:
        forward: maps prepared pictures [n, 3, size, size] on ``device`` to raw embeddings [n, d].
        card: model card.
        device: device of the input of ``forward``.
        files: SHA-256 of the files that the model was loaded from, by path, the weights first; empty for a backbone in
            memory.
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
        """Load a model.

        Args:
            path: model folder (a run, or its ``best``), or an ``.onnx`` file.
            device: ``"cpu"``, ``"cuda"``, ...
            preprocessing: replaces the card's; required for ONNX files not exported by vplface, which have no card.

        Raises:
            DataError: there is no usable model at ``path``.
            MissingExtraError: an ONNX file without the extra ``onnx``.
            VplfaceError: the device is not available.
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
        """Embedder of a backbone in memory; each batch runs in eval mode and then restores the backbone's mode."""

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
        """SHA-256 of the loaded weights or ``.onnx`` file; None for a backbone in memory."""
        return next(iter(self.files.values()), None)

    def __call__(
        self,
        pictures: _Picture | UInt8[np.ndarray, "n size size 3"] | str | Path | Sequence[_Picture | str | Path],
        flip: Flip = "none",
        names: Sequence[str] | None = None,
        unit: bool = True,
    ) -> Float[np.ndarray, "n dim"]:
        """Embed one or several pictures as float32 of unit norm; one picture gives n = 1.

        Args:
            pictures: uint8 RGB arrays of the model's size (or one [n, size, size, 3] array), or files of any size.
            flip: see :data:`Flip`.
            names: names of the pictures in errors; None for their paths or positions.
            unit: whether to normalise the embeddings.

        Raises:
            UnreadablePictureError: a file is missing or not a picture.
            DataError: an embedding is zero or not finite; the picture is named.
            ValueError: an array has another shape or type.
        """
        if isinstance(pictures, str | Path) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
            pictures = [pictures]
        items = list(pictures)
        batches = (
            torch.from_numpy(np.stack([self._to_picture(item) for item in items[start : start + _BATCH_SIZE]]))
            for start in range(0, len(items), _BATCH_SIZE)
        )

        def name(position: int) -> str:
            if names is not None:
                return names[position]
            item = items[position]
            return str(item) if isinstance(item, str | Path) else f"picture {position}"

        return self._embed(batches, len(items), name, flip, "embedding", unit)

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
        """Embed a picture set, or part of it, in order, as float32.

        Args:
            pictures: the set.
            indices: pictures to embed; None for all.
            flip: see :data:`Flip`.
            batch_size: pictures per forward pass.
            workers: number of decoding processes; 0 decodes in this process.
            description: label of the progress bar, which appears after two seconds.
            unit: whether to normalise the embeddings.

        Raises:
            DataError: a picture cannot be read, or an embedding is zero or not finite; the picture is named.
        """
        chosen = np.arange(len(pictures)) if indices is None else indices
        batches = (batch.pictures for batch in load_all(pictures, chosen, batch_size, workers))
        return self._embed(
            batches, len(chosen), lambda position: pictures.name(int(chosen[position])), flip, description, unit
        )

    def raw(self, pictures: UInt8[Tensor, "n size size 3"]) -> Float[Tensor, "n dim"]:
        """Embeddings of pictures of the model's size as the network gives them, of any length, on its device."""
        return self._forward(self.card.preprocessing(pictures.to(self._device)))

    def _to_picture(self, item: Any) -> _Picture:
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
                raw = self._raw_embeddings(pictures, flip)
                norms = raw.norm(dim=1, keepdim=True)
                invalid = (~(norms.isfinite() & (norms > 0))).flatten().nonzero().flatten().tolist()
                if invalid:
                    what = "zero" if norms[invalid[0]] == 0 else "not finite"
                    raise DataError(
                        f"{name(done + invalid[0])}: its embedding is {what} ({len(invalid)} of {len(raw)} in this "
                        "batch); the weights are damaged, or their training diverged"
                    )
                embeddings[done : done + len(raw)] = (raw / norms if unit else raw).numpy()
                done += len(raw)
                advance(len(raw))
        return embeddings

    def _raw_embeddings(self, pictures: UInt8[Tensor, "n size size 3"], flip: Flip) -> Float[Tensor, "n dim"]:
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
                f"{path}: this ONNX file has no model card, since vplface did not export it; describe the "
                "preprocessing of its pictures (--color, --mean and --std of the commands)"
            )
        preprocessing = card.preprocessing
    if network.takes_uint8 and not preprocessing.keeps_uint8:
        raise DataError(
            f"{path}: takes uint8 pixels and prepares them itself; use --mean 0,0,0 "
            "--std 0.0039215686,0.0039215686,0.0039215686"
        )
    network.try_out(preprocessing.size, None if card is None else card.embedding_dim)
    if card is None:
        return network, ModelCard("onnx", network.dim, preprocessing=preprocessing)
    return network, replace(card, preprocessing=preprocessing)
