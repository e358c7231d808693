"""Quality of faces, and whether a face is good enough to decide by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vplface.embedder import Embedder, Flip
from vplface.evaluation.quality import OnnxQuality, QualityScore

TOO_POOR = "too poor to decide"


@dataclass(frozen=True)
class FaceQuality:
    """The quality of a face.

    Attributes:
        score: name of the quality score.
        value: the quality, higher is better.
        least: what is needed; None where every quality will do.
    """

    score: str
    value: float
    least: float | None

    @property
    def too_poor(self) -> bool:
        """Whether the face is too poor to decide by."""
        return self.least is not None and self.value < self.least

    def to_json(self) -> dict[str, Any]:
        """The fields and the verdict, JSON-ready."""
        return {**asdict(self), "too_poor": self.too_poor}

    def __str__(self) -> str:
        needs = "" if self.least is None else f", needs {self.least:.4g}"
        return f"quality ({self.score}) {self.value:.4g}{needs}"


@dataclass(frozen=True, eq=False)
class QualityCheck:
    """A quality score with the least quality that is good enough.

    Attributes:
        score: the score.
        least: the least quality; None for any.
    """

    score: QualityScore
    least: float | None

    def __call__(
        self, raw: Float32[np.ndarray, "n dim"], crops: Sequence[UInt8[np.ndarray, "size size 3"]]
    ) -> list[FaceQuality]:
        """The quality of faces.

        Args:
            raw: their embeddings, as the network gives them.
            crops: the aligned faces, RGB.
        """
        if not len(crops):
            return []
        if isinstance(self.score, OnnxQuality):
            values = self.score.of_pictures(np.stack(crops))
        else:
            values = self.score.of_embeddings(raw)
        return [FaceQuality(self.score.name, value, self.least) for value in values.tolist()]

    def __str__(self) -> str:
        return f"quality ({self.score.name})" + ("" if self.least is None else f" at least {self.least:.6g}")


def embed_and_check(
    embedder: Embedder,
    crops: Sequence[UInt8[np.ndarray, "size size 3"]],
    flip: Flip,
    names: Sequence[str],
    check: QualityCheck | None,
) -> tuple[Float32[np.ndarray, "n dim"], list[FaceQuality | None]]:
    """Embeddings of unit norm, and the quality of each face; None without a check. Raises as the embedder does."""
    if check is None:
        return embedder(crops, flip, names=names), [None] * len(crops)
    raw = embedder(crops, flip, names=names, unit=False)
    norms = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    return (raw / norms).astype(np.float32), list(check(raw, crops))
