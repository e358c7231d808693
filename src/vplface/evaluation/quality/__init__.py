"""Quality of pictures: scores, error-versus-discard curves that compare them, gates that turn away poor pictures."""

from __future__ import annotations

from vplface.evaluation.quality.comparison import QualityQuestion, compare_scores
from vplface.evaluation.quality.discard import DiscardCurve, Discarding
from vplface.evaluation.quality.gate import QualityGate, choose_gate
from vplface.evaluation.quality.scores import (
    Norm,
    OnnxQuality,
    QualityScore,
    Recognisability,
    measure_set,
    unrecognisable_direction,
)

__all__ = [
    "DiscardCurve",
    "Discarding",
    "Norm",
    "OnnxQuality",
    "QualityGate",
    "QualityQuestion",
    "QualityScore",
    "Recognisability",
    "choose_gate",
    "compare_scores",
    "measure_set",
    "unrecognisable_direction",
]
