"""From embeddings to numbers that can be trusted: verification protocols, operating points, intervals."""

from __future__ import annotations

from vplface.evaluation.protocols import (
    FARS,
    evaluate_all_pairs,
    evaluate_all_pairs_embedded,
    evaluate_pairs,
    evaluate_pairs_embedded,
)
from vplface.evaluation.result import Evaluation, compare
from vplface.evaluation.tar_at_far import TooFewImpostorsError

__all__ = [
    "FARS",
    "Evaluation",
    "TooFewImpostorsError",
    "compare",
    "evaluate_all_pairs",
    "evaluate_all_pairs_embedded",
    "evaluate_pairs",
    "evaluate_pairs_embedded",
]
