"""Verification over the comparisons of identification: TAR at FAR of mates against all rivals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vplface.evaluation.identification.comparison import DEPTH, Comparison
from vplface.evaluation.protocols import WORST
from vplface.evaluation.replicates import tar_figures
from vplface.evaluation.roc_replicates import WeightedScores, tail_length
from vplface.evaluation.tar_at_far import FarRule, drawable, roc


def verify_comparisons(
    compared: Comparison,
    people: Int64[np.ndarray, " n"],
    fars: Sequence[float],
    far_rule: FarRule,
    drawn: Int64[np.ndarray, "replicates identities"],
) -> tuple[
    dict[str, dict[str, Any]],
    dict[str, Float64[np.ndarray, " replicates"]],
    dict[str, list[float]] | None,
    Iterator[tuple[float, int, int]],
]:
    """TAR at FAR over all comparisons: figures, replicates, the curve, the impostors from the most similar on."""
    total = int(compared.rivals.sum())
    needed = [tail_length(far, total) for far in fars if far * total >= 1]
    impostor, of, row = compared.impostors(min(total, max([WORST * DEPTH, *needed])))
    order = np.argsort(-compared.similarity, kind="stable")
    genuine = compared.similarity[order]
    figures, replicates = tar_figures(
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
    return figures, replicates, curve, zip(impostor.tolist(), of.tolist(), row.tolist(), strict=True)


def each_once(found: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """The first comparisons, each probe and each row once."""
    chosen: list[tuple[float, int, int]] = []
    probes: set[int] = set()
    rows: set[int] = set()
    for score, probe, row in found:
        if len(chosen) == WORST:
            break
        if probe not in probes and row not in rows:
            probes.add(probe)
            rows.add(row)
            chosen.append((score, probe, row))
    return chosen
