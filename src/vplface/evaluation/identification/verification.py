"""Verification over the comparisons of identification: TAR at FAR of mates against all rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vplface.evaluation.figure import Figures
from vplface.evaluation.identification.comparison import DEPTH, Comparison
from vplface.evaluation.roc_replicates import WeightedScores, tail_length
from vplface.evaluation.tar_at_far import FarRule, drawable, roc
from vplface.evaluation.tar_figures import tar_figures
from vplface.evaluation.worst import WORST, WrongPair, first_without_repetition


@dataclass(frozen=True, eq=False)
class VerifiedComparisons:
    """Verification over all comparisons.

    Attributes:
        figures: TAR at FAR.
        roc: the curve of FAR and TAR; None without impostors.
        impostors: the most similar ones, a probe left and a row right; no probe and no row is in two.
    """

    figures: Figures
    roc: dict[str, list[float]] | None
    impostors: list[WrongPair]


def verify_comparisons(
    compared: Comparison,
    people: Int64[np.ndarray, " n"],
    fars: Sequence[float],
    far_rule: FarRule,
    drawn: Int64[np.ndarray, "replicates identities"],
) -> VerifiedComparisons:
    """TAR at FAR over all comparisons, the curve, and the most similar impostors."""
    total = int(compared.rivals.sum())
    needed = [tail_length(far, total) for far in fars if far * total >= 1]
    impostor, of, row = compared.impostors(min(total, max([WORST * DEPTH, *needed])))
    order = np.argsort(-compared.similarity, kind="stable")
    genuine = compared.similarity[order]
    figures = tar_figures(
        WeightedScores.of_probes(genuine, compared.probe[order], people),
        WeightedScores.of_probes(impostor, of, people),
        total,
        drawn @ np.bincount(people, compared.rivals, minlength=drawn.shape[1]),
        fars,
        far_rule,
        drawn,
    )
    curve = None
    if len(impostor):
        far_points, tar_points = drawable(*roc(genuine, impostor, total)[:2])
        curve = {"far": far_points.tolist(), "tar": tar_points.tolist()}
    pairs = zip(of, row + len(people), strict=True)  # rows of the gallery are not pictures of the probes
    worst = [pair._replace(right=pair.right - len(people)) for pair in first_without_repetition(impostor, pairs)]
    return VerifiedComparisons(figures, curve, worst)
