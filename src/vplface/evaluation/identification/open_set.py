"""Open-set identification: the true positive identification rate (TPIR) at a false positive one (FPIR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vplface.evaluation.figure import Figure, Figures
from vplface.evaluation.identification.comparison import Ranking
from vplface.evaluation.metrics import TPIR
from vplface.evaluation.roc_replicates import WeightedScores, tar_replicates
from vplface.evaluation.tar_at_far import TooFewImpostorsError, drawable, roc, tar_at_far


@dataclass(frozen=True, eq=False)
class _Detections:
    """The scores of one ranking that decide its open set, each from highest to lowest.

    Attributes:
        mated: the probe of each mate that counts.
        true: the probes whose mate comes first, and :attr:`true_score` the similarity of the two.
        false: the probes without a mate, and :attr:`false_score` the similarity of their nearest rival.
    """

    mated: Int64[np.ndarray, " u"]
    true: Int64[np.ndarray, " t"]
    true_score: Float32[np.ndarray, " t"]
    false: Int64[np.ndarray, " f"]
    false_score: Float32[np.ndarray, " f"]

    @classmethod
    def of(cls, ranking: Ranking) -> _Detections:
        """The detections of a ranking."""
        without_mate = np.isfinite(ranking.rival_similarity)
        without_mate[ranking.probe] = False
        false = np.flatnonzero(without_mate)
        false = false[np.argsort(-ranking.rival_similarity[false], kind="stable")]
        first = np.flatnonzero(ranking.rank == 1)
        first = first[np.argsort(-ranking.similarity[first], kind="stable")]
        return cls(
            ranking.probe, ranking.probe[first], ranking.similarity[first], false, ranking.rival_similarity[false]
        )

    def point(self, fpir: float) -> tuple[float, float, float]:
        """TPIR, threshold and the FPIR that is reached; raises TooFewImpostorsError."""
        true_score = self.true_score if len(self.true) else np.array([-2.0])
        point = tar_at_far(true_score, self.false_score, fpir)
        return point.tar * len(self.true) / len(self.mated), point.threshold, point.actual_far

    def replicates(
        self,
        people: Int64[np.ndarray, " n"],
        fpirs: Sequence[float],
        drawn: Int64[np.ndarray, "replicates identities"],
    ) -> Float64[np.ndarray, "fpirs replicates"]:
        """TPIR at each rate for each draw; NaN where a draw holds no probe without a mate or none with one."""
        if not len(drawn) or not len(self.true) or not len(self.false):
            return np.zeros((len(fpirs), len(drawn)))
        mated, true, false = (
            drawn @ np.bincount(people[probes], minlength=drawn.shape[1])
            for probes in (self.mated, self.true, self.false)
        )
        rate = tar_replicates(
            WeightedScores.of_probes(self.true_score, self.true, people),
            WeightedScores.of_probes(self.false_score, self.false, people),
            None,
            fpirs,
            "strict",
            drawn,
        )
        with np.errstate(invalid="ignore"):  # the rate is among the mates that come first; wanted is among all mates
            tpir: Float64[np.ndarray, "fpirs replicates"] = np.nan_to_num(rate) * true / np.where(false, mated, np.nan)
        return tpir

    def curve(self) -> dict[str, list[float]]:
        """The curve of TPIR over FPIR."""
        fpir, rate = drawable(*roc(self.true_score, self.false_score)[:2])
        return {"fpir": fpir.tolist(), "tpir": (rate * (len(self.true) / len(self.mated))).tolist()}


@dataclass(frozen=True, eq=False)
class OpenSet:
    """The open set of some rankings.

    Attributes:
        figures: TPIR at FPIR.
        curves: TPIR over FPIR of each ranking that has one.
    """

    figures: Figures
    curves: list[dict[str, list[float]]]


def open_set(
    rankings: Sequence[Ranking],
    people: Int64[np.ndarray, " n"],
    fpirs: Sequence[float],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> OpenSet:
    """TPIR at FPIR, of several rankings (galleries) the mean; and each ranking's curve.

    A probe without a mate counts once, by the similarity of its nearest rival, however large the
    gallery is.

    Args:
        rankings: of the same probes against each gallery, with ``mates="best"``.
        people: of the probes.
        fpirs: false positive identification rates.
        drawn: how often each person is drawn.
    """
    galleries = [_Detections.of(ranking) for ranking in rankings]
    resampled = np.mean([gallery.replicates(people, fpirs, drawn) for gallery in galleries], axis=0)
    mated_people = len(np.unique(np.concatenate([people[gallery.mated] for gallery in galleries])))
    figures: dict[str, Figure] = {}
    replicates: dict[str, Float64[np.ndarray, " replicates"]] = {}
    for number, fpir in enumerate(fpirs):
        metric = TPIR.at(fpir).key
        try:
            rates, thresholds, reached = map(list, zip(*(gallery.point(fpir) for gallery in galleries), strict=True))
        except TooFewImpostorsError:
            fewest = min(len(gallery.false) for gallery in galleries)
            reason = (
                f"FPIR {fpir:g} needs at least {int(np.ceil(1 / fpir)):,} probes without a mate, there are {fewest:,}; "
                "ask for a higher FPIR or give more"
            )
            figures[metric] = Figure(None, details={"reason": reason})
            continue
        details = {"threshold": thresholds[0], "actual_fpir": reached[0]}
        if len(galleries) > 1:
            details = {"threshold": thresholds, "actual_fpir": reached, "per_gallery": rates}
        figures[metric] = Figure(float(np.mean(rates)), None, details, mated_people)
        if len(drawn):
            replicates[metric] = resampled[number]
            figures[metric] = figures[metric].resampled(replicates[metric])
    curves = [gallery.curve() for gallery in galleries if len(gallery.true) and len(gallery.false)]
    return OpenSet(Figures(figures, replicates), curves)
