"""Closed-set identification: rank-k rates, and the probes whose mate comes behind a rival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from vplface.evaluation.bootstrap import share_replicates
from vplface.evaluation.figure import Figure, Figures, Stored
from vplface.evaluation.identification.comparison import Ranking
from vplface.evaluation.metrics import RANK
from vplface.evaluation.worst import WORST


def closed_set(
    rankings: Sequence[Ranking],
    people: Int64[np.ndarray, " n"],
    ranks: Sequence[int],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> Figures:
    """Rank-k rates; of several rankings (galleries) the mean.

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
    return Figures(figures, replicates)


@dataclass(frozen=True, eq=False)
class GalleryMiss(Stored):
    """A probe whose mate comes behind a rival.

    Attributes:
        probe: its picture.
        found: the picture of the nearest rival.
        mate: the picture of the mate.
        similarity: of the probe and the rival.
        mate_rank: the rank of the mate; None if it is beyond those that are distinguished.
    """

    probe: str
    found: str
    mate: str
    similarity: float
    mate_rank: int | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object: the fields by name."""
        return asdict(self)


def gallery_misses(ranking: Ranking, probes: Sequence[str], gallery: Sequence[str]) -> list[GalleryMiss]:
    """The probes whose mate is farthest behind a rival, each once, with the nearest rival."""
    missed = np.flatnonzero(ranking.rank > 1)
    behind = ranking.rival_similarity[ranking.probe[missed]] - ranking.similarity[missed]
    chosen: dict[int, GalleryMiss] = {}
    for position in missed[np.argsort(-behind, kind="stable")].tolist():
        if len(chosen) == WORST:
            break
        probe, rank = int(ranking.probe[position]), int(ranking.rank[position])
        miss = GalleryMiss(
            probes[probe],
            row_name(gallery, int(ranking.rival[probe])),
            row_name(gallery, int(ranking.mate[position])),
            float(ranking.rival_similarity[probe]),
            rank if rank <= ranking.depth else None,
        )
        chosen.setdefault(probe, miss)
    return list(chosen.values())


def row_name(gallery: Sequence[str], row: int) -> str:
    """The picture of a row of the gallery and of the distractors after it."""
    return gallery[row] if row < len(gallery) else f"distractor {row - len(gallery)}"
