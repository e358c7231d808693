"""Closed-set identification: rank-k rates, and the probes whose mate comes behind a rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vplface.evaluation.bootstrap import share_replicates
from vplface.evaluation.figure import Figure
from vplface.evaluation.identification.comparison import Ranking
from vplface.evaluation.metrics import RANK
from vplface.evaluation.worst import WORST


def closed_set(
    rankings: Sequence[Ranking],
    people: Int64[np.ndarray, " n"],
    ranks: Sequence[int],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> tuple[dict[str, Figure], dict[str, Float64[np.ndarray, " replicates"]]]:
    """Rank-k rates, their intervals and replicates; of several rankings (galleries) the mean.

    Args:
        rankings: of the same probes against each gallery.
        people: of the probes.
        ranks: the ranks.
        drawn: how often each person is drawn.
    """
    figures: dict[str, Figure] = {}
    replicates = {}
    mated_people = len(np.unique(np.concatenate([people[ranking.probe] for ranking in rankings])))
    for rank in ranks:
        metric = RANK.at(rank).key
        rates = [float((ranking.rank <= rank).mean()) for ranking in rankings]
        details = {"per_gallery": rates} if len(rankings) > 1 else {}
        figures[metric] = Figure(float(np.mean(rates)), None, details, mated_people)
        if len(drawn):
            resampled = [share_replicates(each.rank <= rank, people[each.probe], drawn) for each in rankings]
            replicates[metric] = np.mean(resampled, axis=0)
            figures[metric] = figures[metric].resampled(replicates[metric])
    return figures, replicates


def gallery_misses(ranking: Ranking, probes: Sequence[str], gallery: Sequence[str]) -> list[Mapping[str, Any]]:
    """The probes whose mate is farthest behind a rival, each once, with the nearest rival."""
    missed = np.flatnonzero(ranking.rank > 1)
    behind = ranking.rival_similarity[ranking.probe[missed]] - ranking.similarity[missed]
    chosen: dict[int, Mapping[str, Any]] = {}
    for position in missed[np.argsort(-behind, kind="stable")].tolist():
        if len(chosen) == WORST:
            break
        probe, rank = int(ranking.probe[position]), int(ranking.rank[position])
        miss = {
            "probe": probes[probe],
            "found": row_name(gallery, int(ranking.rival[probe])),
            "mate": row_name(gallery, int(ranking.mate[position])),
            "similarity": float(ranking.rival_similarity[probe]),
            "mate_rank": rank if rank <= ranking.depth else None,
        }
        chosen.setdefault(probe, miss)
    return list(chosen.values())


def row_name(gallery: Sequence[str], row: int) -> str:
    """The picture of a row of the gallery and of the distractors after it."""
    return gallery[row] if row < len(gallery) else f"distractor {row - len(gallery)}"
