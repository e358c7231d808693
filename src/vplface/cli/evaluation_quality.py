"""The options ``--quality``, ``--discard`` and ``--gate`` of ``vplface evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vplface.cli.quality_names import split_names
from vplface.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vplface.embedder import Embedder, Flip
    from vplface.evaluation.quality import QualityQuestion, QualityScore
    from vplface.evaluation.task import VerificationTask

QUALITY = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SCORE,...",
        help="Compare quality scores of the pictures by their error-versus-discard curves: norm, recognisability, or "
        "an ONNX quality model, FILE.onnx or FILE.onnx:color=bgr,mean=0.5,std=0.5,size=112. May be repeated.",
        show_default=False,
    ),
]
DISCARD = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="With --quality: the largest share of the pictures that is discarded, for the area under the curve.",
    ),
]
GATE = Annotated[
    str | None,
    typer.Option(
        metavar="discard=SHARE|fnmr=RATE",
        help="With --save-operating-point: also store the least quality, by the first score of --quality, that turns "
        "away at most this share of the pictures, or as few as reach this FNMR. Below it a picture is too poor to "
        "decide.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Gate:
    """How a quality gate is chosen: by the share of the pictures that it turns away, or by the FNMR it leaves."""

    discard: float | None = None
    fnmr: float | None = None


@dataclass(frozen=True)
class QualityOptions:
    """The quality scores and the gate that the options ask for.

    Attributes:
        names: of the scores, none for no question.
        share: the largest share that is discarded.
        gate: to store; None for none.
    """

    names: Sequence[str]
    share: float
    gate: Gate | None

    @classmethod
    def of(cls, names: Sequence[str] | None, share: float, gate: str | None, far: float | None) -> QualityOptions:
        """The options as they are given; raises UsageError where they do not go together."""
        scores = split_names(names or [])
        if not 0 < share <= 0.5:
            raise UsageError(f"--discard {share:g}: a share of the pictures is above 0 and at most 0.5")
        if gate is not None and (not scores or far is None):
            raise UsageError("--gate goes with --quality and --save-operating-point; give them too")
        return cls(scores, share, None if gate is None else _gate(gate))


class QualityMeasure:
    """The quality scores of one model.

    Args:
        options: what is asked for.
        task: the pictures as they are, on which the direction of the unrecognisable is measured.
        embedder: the model; None for embeddings of a file.
        flip: whether the embedding of the mirrored picture is added.
        workers: processes that decode pictures.

    Raises:
        UsageError: recognisability of embeddings in a file.
    """

    def __init__(
        self, options: QualityOptions, task: VerificationTask, embedder: Embedder | None, flip: Flip, workers: int
    ) -> None:
        from vplface.cli.quality_names import read_score
        from vplface.evaluation.quality import Recognisability, unrecognisable_direction

        self._options, self._workers = options, workers
        self._scores: dict[str, QualityScore] = {}
        for name in options.names:
            if name != "recognisability":
                self._scores[name] = read_score(name)
            elif embedder is None:
                raise UsageError("--quality recognisability embeds poor pictures; give a model, not embeddings")
            else:
                direction = unrecognisable_direction(embedder, task.pictures, task.used, flip, workers)
                self._scores[name] = Recognisability(direction)

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        """Values that an operating point stores about each score."""
        return {name: score.describe() for name, score in self._scores.items()}

    def __call__(self, task: VerificationTask, raw: Float[np.ndarray, "n dim"]) -> QualityQuestion | None:
        """The qualities of the pictures of a task by their embeddings; None if nothing is asked for."""
        if not self._scores:
            return None
        from vplface.evaluation.quality import OnnxQuality, QualityQuestion, measure_set

        qualities = {
            name: measure_set(score, task.pictures, task.used, raw, self._workers)
            for name, score in self._scores.items()
        }
        described = {name: score.describe() for name, score in self._scores.items() if isinstance(score, OnnxQuality)}
        return QualityQuestion(qualities, self._options.share, described)


def _gate(text: str) -> Gate:
    kind, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind not in ("discard", "fnmr") or not 0 <= value <= (0.5 if kind == "discard" else 1):
        raise UsageError(
            f"--gate {text}: expected discard=SHARE with a share of at most 0.5, or fnmr=RATE, e.g. --gate discard=0.05"
        )
    return Gate(**{kind: value})
