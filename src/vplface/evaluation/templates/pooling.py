"""Templates: the pooled embeddings of the faces of a person's media."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vplface.data.ijb import Faces
from vplface.errors import DataError
from vplface.evaluation.unit import require_direction
from vplface.progress import progress

_FACES = 8192
"""The number of faces that are pooled at once."""


@dataclass(frozen=True)
class Flags:
    """How faces are weighed in a template, as :mod:`vplface.evaluation.templates` defines it.

    Attributes:
        norm: N: an embedding keeps its norm.
        detector: D: a face weighs the detector's score.
        flip: F: the embedding of the mirrored picture is added.
    """

    norm: bool = True
    detector: bool = True
    flip: bool = True

    @classmethod
    def parse(cls, text: str) -> Flags:
        """``"N1D1F1"`` and so on; raises ValueError."""
        match = re.fullmatch("N([01])D([01])F([01])", text.strip().upper())
        if match is None:
            raise ValueError(f"flags are written N1D1F1, each with 0 or 1, got {text!r}")
        return cls(*(digit == "1" for digit in match.groups()))

    def protocol(self) -> dict[str, Any]:
        """The pooling in words, for the protocol of an evaluation."""
        return {
            "flags": str(self),
            "pooling": "mean within a medium, sum over media, unit norm",
            "norm": "the network's" if self.norm else "unit",
            "detector_score": self.detector,
            "flip": "sum" if self.flip else "none",
        }

    def __str__(self) -> str:
        return f"N{self.norm:d}D{self.detector:d}F{self.flip:d}"


@dataclass(frozen=True, eq=False)
class Templates:
    """Pooled faces.

    Attributes:
        number: of each template, ascending.
        features: of unit norm.
        picture: the name of the first picture of each, to show.
        equal_norms: whether all embeddings were of one norm, so that flag N made no difference.
    """

    number: Int64[np.ndarray, " t"]
    features: Float32[np.ndarray, "t dim"]
    picture: Sequence[str]
    equal_norms: bool

    def rows(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of templates by their numbers.

        Raises:
            DataError: a template without faces; it is named.
        """
        rows = np.minimum(np.searchsorted(self.number, numbers), len(self.number) - 1)
        if len(missing := np.flatnonzero(self.number[rows] != numbers)):
            lacking = np.unique(numbers[missing])
            raise DataError(
                f"{len(lacking)} templates to compare have no faces, for example {lacking[0]}; are the files of "
                "one set and one version?"
            )
        return rows

    def pictures_of(self, rows: Int64[np.ndarray, " n"]) -> list[str]:
        """The pictures to show for some rows."""
        return [self.picture[row] for row in rows]


def pool(
    embeddings: Float[np.ndarray, "pictures dim"],
    faces: Faces,
    *,
    norm: bool,
    scores: Float64[np.ndarray, " pictures"] | None = None,
) -> Templates:
    """Pool the faces of each template, as :mod:`vplface.evaluation.templates` defines it.

    Args:
        embeddings: a row a picture of ``faces``, with the norm that the network gives it.
        faces: the template and medium of each face.
        norm: flag N.
        scores: flag D: the detector's score of each picture; None gives all the same weight.

    Raises:
        DataError: an embedding or a template that is zero or not finite; it is named.
        ValueError: the number of rows or scores is not that of the pictures.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(faces.pictures):
        raise ValueError(f"embeddings must be [{len(faces.pictures)}, dim], a row a picture, got {embeddings.shape}")
    if scores is not None and len(scores) != len(faces.pictures):
        raise ValueError(f"{len(scores)} scores given for {len(faces.pictures)} pictures")
    norms = _norms(embeddings, faces.pictures)
    weight = np.ones(len(norms)) if scores is None else scores
    if not norm:
        weight = weight / norms

    order = np.lexsort((faces.medium, faces.template))
    template, medium, picture = faces.template[order], faces.medium[order], faces.picture[order]
    new_template = np.append(True, np.diff(template) != 0)
    new_medium = np.flatnonzero(new_template | np.append(True, np.diff(medium) != 0))
    frames = np.diff(new_medium, append=len(order))
    # The mean within a medium and the sum over media are one sum over faces, each divided by its medium's frames.
    share = weight[picture] / np.repeat(frames, frames)
    starts = np.flatnonzero(new_template)
    features = _pooled(embeddings, picture, share, starts, template[starts])
    first_pictures = [faces.pictures[index] for index in picture[starts]]
    return Templates(template[starts], features, first_pictures, bool(np.ptp(norms) <= 1e-4 * norms.max()))


def _pooled(
    embeddings: Float[np.ndarray, "pictures dim"],
    picture: Int64[np.ndarray, " faces"],
    share: Float64[np.ndarray, " faces"],
    starts: Int64[np.ndarray, " t"],
    number: Int64[np.ndarray, " t"],
) -> Float32[np.ndarray, "t dim"]:
    """The weighted sums of the faces of templates, at unit norm; faces are sorted by template.

    Args:
        embeddings: of the pictures.
        picture: of each face.
        share: the weight of each face.
        starts: the first face of each template.
        number: of each template, for the error.
    """
    ends = np.append(starts[1:], len(picture))
    features = np.empty((len(starts), embeddings.shape[1]), np.float32)
    low = 0
    with progress("pooling templates", len(picture)) as advance:
        while low < len(starts):
            high = max(low + 1, int(np.searchsorted(ends, starts[low] + _FACES, side="right")))
            some = slice(starts[low], ends[high - 1])
            weighed = embeddings[picture[some]].astype(np.float64)
            weighed *= share[some, None]
            sums = np.add.reduceat(weighed, starts[low:high] - starts[low])
            length = np.linalg.norm(sums, axis=1, keepdims=True)
            if len(wrong := np.flatnonzero(~(np.isfinite(length) & (length > 0)))):
                raise DataError(
                    f"template {number[low + wrong[0]]} is zero or not finite once its faces are pooled; are the "
                    "detector's scores positive?"
                )
            features[low:high] = sums / length
            advance(some.stop - some.start)
            low = high
    return features


def _norms(embeddings: Float[np.ndarray, "n dim"], names: Sequence[str]) -> Float64[np.ndarray, " n"]:
    norms = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _FACES):
        block = embeddings[start : start + _FACES].astype(np.float64)
        norms[start : start + _FACES] = np.sqrt(np.einsum("nd,nd->n", block, block))
    require_direction(norms, lambda row: names[row])
    return norms
