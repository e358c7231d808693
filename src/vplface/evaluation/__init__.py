"""Evaluation of embeddings: verification and identification protocols, operating points, intervals."""

from __future__ import annotations

from vplface.evaluation.options import FARS, EvalOptions
from vplface.evaluation.result import Evaluation, compare
from vplface.evaluation.tar_at_far import TooFewImpostorsError
from vplface.evaluation.verify import (
    evaluate_all_pairs,
    evaluate_all_pairs_embedded,
    evaluate_pairs,
    evaluate_pairs_embedded,
)

__all__ = [
    "FARS",
    "EvalOptions",
    "Evaluation",
    "TooFewImpostorsError",
    "compare",
    "evaluate_all_pairs",
    "evaluate_all_pairs_embedded",
    "evaluate_pairs",
    "evaluate_pairs_embedded",
]
