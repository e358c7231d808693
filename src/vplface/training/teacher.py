"""Teachers: a frozen model, or a file of its embeddings of the training pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vplface.data.batches import Batch
from vplface.data.pictures import SIZE, PictureSet, Preprocessing
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError
from vplface.evaluation.embeddings_file import TYPES, EmbeddingsFile


class Teacher(Protocol):
    """Embeds the pictures of a batch; nothing of it is trained.

    Attributes:
        path: of the model or file.
        dim: size of an embedding.
        files: SHA-256 of the files that it was read from, by path.
    """

    path: Path
    dim: int
    files: dict[str, str]

    def __call__(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The embeddings of a batch, of any length."""


def teacher_of(
    path: Path, pictures: PictureSet, device: torch.device, preprocessing: Preprocessing | None = None
) -> Teacher:
    """The teacher at a path: a run or another model folder, an .onnx file, or a file of embeddings (.npy, .npz).

    Args:
        path: of the model or file.
        pictures: the training pictures.
        device: of the run. onnxruntime computes on the CPU.
        preprocessing: of the pictures of a model; None for that of its card.

    Raises:
        DataError: if there is none, or the file lacks a picture.
        ConfigError: if the model takes pictures of another size, or preprocessing is given for a file of embeddings.
    """
    try:
        if path.suffix.lower() in TYPES:
            if preprocessing is not None:
                raise ConfigError(f"distill.preprocessing: {path} holds embeddings, so none is needed")
            return EmbeddingsTeacher(path, pictures)
        return ModelTeacher(path, device, preprocessing)
    except DataError as error:
        raise DataError(f"distill.teacher: {error}") from error


class ModelTeacher:
    """A model that embeds the pictures of each step as they are augmented; see :class:`Teacher`."""

    def __init__(self, path: Path, device: torch.device, preprocessing: Preprocessing | None) -> None:
        self._embedder = Embedder.load(path, "cpu" if path.suffix == ".onnx" else device, preprocessing)
        size = self._embedder.card.preprocessing.size
        if size != SIZE:
            raise ConfigError(f"distill.teacher: {path} takes pictures of {size} pixels, training has {SIZE}")
        self.path = path
        self.dim = self._embedder.dim
        self.files = self._embedder.files
        self.card = self._embedder.card

    def __call__(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The embeddings of the augmented pictures."""
        return self._embedder.raw(batch.pictures).clone()  # which autograd may keep


class EmbeddingsTeacher:
    """Stored embeddings of the training pictures, whatever their augmentation; see :class:`Teacher`."""

    def __init__(self, path: Path, pictures: PictureSet) -> None:
        file = EmbeddingsFile.read(path)
        self._embeddings = torch.from_numpy(file.of(pictures))
        self.path = path
        self.dim = self._embeddings.shape[1]
        self.files = dict(file.files)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings, in the memory of the CPU."""
        return self._embeddings.nbytes

    def __call__(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The embeddings of the pictures that the batch was made from."""
        return self._embeddings[batch.indices]
