"""Quality scores of pictures: norm, recognisability, or any ONNX network with one output. Higher is better.

- The **norm** of the embedding as the network gives it. MagFace (Meng, Zhao, Huang, Zhou, CVPR 2021) trains it to be a
  quality, AdaFace (Kim, Jain, Liu, CVPR 2022) uses it as one; of other margins it often says something as well.
- **Recognisability**, min(1 − ⟨f, x⟩, 1), where f is the direction of what the model cannot recognise (Deng, Xiong,
  Wang, Xia, Soatto, 2021). They find it by clustering; here it is the mean embedding of pictures that are reduced to 4
  to 6 pixels a side, in which nobody can be recognised.
- Any network that gives one number for a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from vplface.backbones.onnx import OnnxNetwork
from vplface.data.batches import load_all
from vplface.data.degrade import Degradation, DegradedPictures, LowResolution
from vplface.data.pictures import PictureSet, Preprocessing, resized
from vplface.data.selection import Subset
from vplface.embedder import Embedder, Flip
from vplface.errors import DataError
from vplface.evaluation.recognisability import mean_direction, recognisability
from vplface.progress import progress

_BATCH_SIZE = 128
_MOST_PICTURES = 2000
_UNRECOGNISABLE = Degradation(LowResolution((4, 6)))
_EQUAL_NORMS = 1e-4


@dataclass(frozen=True)
class Norm:
    """The norm of the embedding."""

    name: str = "norm"

    def of_embeddings(self, raw: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
        """The quality of pictures by their embeddings as the network gives them."""
        norms: Float64[np.ndarray, " n"] = np.linalg.norm(raw.astype(np.float64), axis=1)
        return norms

    def of_many(self, raw: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
        """The same for a set of pictures; raises DataError if their norms are all equal."""
        norms = self.of_embeddings(raw)
        if len(norms) > 1 and np.ptp(norms) < _EQUAL_NORMS * norms.mean():
            raise DataError(
                f"quality by norm: all {len(norms)} embeddings have the norm {norms.mean():.4g}; they were normalised, "
                "by the network or when they were stored. Take another score, or embeddings as the network gives them"
            )
        return norms

    def describe(self) -> dict[str, Any]:
        """Values that an operating point stores about the score."""
        return {}


@dataclass(frozen=True, eq=False)
class Recognisability:
    """The distance from the direction of what the model cannot recognise.

    Attributes:
        direction: of unit norm.
        name: of the score.
    """

    direction: Float64[np.ndarray, " dim"]
    name: str = "recognisability"

    def of_embeddings(self, raw: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
        """The quality of pictures by their embeddings, of any norm; raises DataError for another dimension."""
        if raw.shape[1] != len(self.direction):
            raise DataError(
                f"recognisability: the stored direction has {len(self.direction)} dimensions, the embeddings "
                f"{raw.shape[1]}; it belongs to another model"
            )
        x = raw.astype(np.float64)
        return recognisability(x @ self.direction / np.linalg.norm(x, axis=1))

    def describe(self) -> dict[str, Any]:
        """Values that an operating point stores about the score."""
        return {"direction": [round(each, 6) for each in self.direction.tolist()]}

    @classmethod
    def stored(cls, described: Mapping[str, Any], where: str) -> Recognisability:
        """Read back :meth:`describe`; raises DataError if it is damaged."""
        try:
            direction = np.array(described.get("direction"), np.float64)
        except (TypeError, ValueError):
            direction = np.zeros(0)
        if direction.ndim != 1 or not np.isfinite(direction).all() or not abs(np.linalg.norm(direction) - 1) < 1e-3:
            raise DataError(f"{where}: 'quality': 'direction' must be a vector of unit norm; measure the gate again")
        return cls(direction / np.linalg.norm(direction))


class OnnxQuality:
    """A network that gives one number for a picture.

    Args:
        path: the ONNX file.
        preprocessing: of its pictures.
        device: ``cpu`` or ``cuda``.
        sha256: what the file must be; None for any.

    Raises:
        DataError: no such file, it is not the expected one, or it does not give one number for a picture.
    """

    def __init__(
        self, path: Path, preprocessing: Preprocessing, device: str = "cpu", sha256: str | None = None
    ) -> None:
        self.name = str(path)
        self.preprocessing = preprocessing
        self._network = OnnxNetwork(path, device)
        self.files = self._network.files
        if sha256 not in (None, self.files[str(path)]):
            raise DataError(f"{path}: is another file than the one that the gate was measured with; measure it again")
        self._network.try_out(preprocessing.size, 1)

    def of_pictures(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Float64[np.ndarray, " n"]:
        """The quality of aligned RGB pictures; raises DataError if one is not finite."""
        size = self.preprocessing.size
        scaled = np.stack([resized(each, size) for each in pictures])
        quality = self._network(self.preprocessing(torch.from_numpy(scaled)))[:, 0].double().numpy()
        if not np.isfinite(quality).all():
            raise DataError(f"{self.name}: the quality of a picture is not finite; the network is damaged")
        return quality

    def describe(self) -> dict[str, Any]:
        """Values that an operating point stores about the score."""
        return {"sha256": self.files[self.name], "preprocessing": self.preprocessing.to_dict()}


QualityScore: TypeAlias = Norm | Recognisability | OnnxQuality


def measure_set(
    score: QualityScore,
    pictures: PictureSet,
    used: Int64[np.ndarray, " m"],
    raw: Float[np.ndarray, "n dim"],
    workers: int = 0,
) -> Float64[np.ndarray, " n"]:
    """The quality of the pictures of a set that are used; NaN for the others.

    Args:
        score: the score.
        pictures: the set.
        used: positions of the pictures.
        raw: embedding of each picture of the set, as the network gives it.
        workers: processes that decode pictures.
    """
    quality = np.full(len(pictures), np.nan)
    if not isinstance(score, OnnxQuality):
        quality[used] = score.of_many(raw[used]) if isinstance(score, Norm) else score.of_embeddings(raw[used])
        return quality
    found = []
    with progress(f"quality by {score.name}", len(used)) as advance:
        for batch in load_all(pictures, used, _BATCH_SIZE, workers):
            found.append(score.of_pictures(batch.pictures.numpy()))
            advance(len(batch.pictures))
    quality[used] = np.concatenate(found)
    return quality


def unrecognisable_direction(
    embedder: Embedder, pictures: PictureSet, used: Int64[np.ndarray, " m"], flip: Flip, workers: int = 0
) -> Float64[np.ndarray, " dim"]:
    """The mean direction of pictures that are reduced to 4 to 6 pixels a side, of at most 2,000 of a set.

    Raises:
        DataError: their embeddings cancel each other out.
    """
    some = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), _MOST_PICTURES)).round().astype(int))]
    poor = DegradedPictures.of_all_pairs(Subset(_clean(pictures), _places(pictures, some)), _UNRECOGNISABLE)
    embeddings: Float32[np.ndarray, "m dim"] = embedder.embed_set(
        poor, flip=flip, workers=workers, description="embedding the unrecognisable"
    )
    direction = mean_direction(embeddings.astype(np.float64))
    if not np.linalg.norm(direction) > 0:
        raise DataError("recognisability: the embeddings of unrecognisable pictures have no mean direction")
    return direction


def _clean(pictures: PictureSet) -> PictureSet:
    return pictures.original if isinstance(pictures, DegradedPictures) else pictures


def _places(pictures: PictureSet, some: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    places: Int64[np.ndarray, " k"] = pictures.places[some] if isinstance(pictures, DegradedPictures) else some
    return places
