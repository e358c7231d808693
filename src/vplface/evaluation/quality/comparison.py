"""Several quality scores of one set by their error-versus-discard curves, at each threshold, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from vplface.evaluation.bootstrap import all_draws, interval
from vplface.evaluation.figure import Difference, Figure
from vplface.evaluation.quality.discard import Discarding
from vplface.evaluation.quality.false_matches import FalseMatches
from vplface.evaluation.scores import Scores

SHARES = np.linspace(0.0, 0.5, 51)
"""The shares of pictures at which curves are stored."""


@dataclass(frozen=True, eq=False)
class QualityQuestion:
    """Quality scores to compare on the pictures of a set.

    Attributes:
        scores: the quality of each picture by each score, higher is better.
        share: the largest share of the pictures that is discarded, for the partial area; above 0, at most 0.5.
        described: what is stored about each score, JSON-ready.
    """

    scores: Mapping[str, Float[np.ndarray, " n"]]
    share: float = 0.2
    described: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share <= SHARES[-1]:
            raise ValueError(f"share must lie above 0 and at most at {SHARES[-1]:g}, got {self.share}")

    def at(self, places: Int64[np.ndarray, " m"]) -> QualityQuestion:
        """The same for some of the pictures."""
        return replace(self, scores={name: quality[places] for name, quality in self.scores.items()})


def compare_scores(
    scores: Scores, question: QualityQuestion, thresholds: Mapping[str, float], replicates: int, seed: int
) -> dict[str, Any]:
    """The error-versus-discard curves of quality scores, JSON-ready.

    Args:
        scores: of the pairs.
        question: the quality scores.
        thresholds: of the comparison, by the key of the operating point; a draw of people keeps them.
        replicates: draws of people for the intervals; 0 for none.
        seed: of the draws.

    Returns:
        ``"share"``; ``"scores"``: {name: {"quartiles", and what describes the score}}; ``"at"``: {operating point:
        {"threshold", "fnmr", "scores": {name: {"curve", "pauc", "relative"}}, "differences"}}. A curve has
        ``"share"``, the share that is really ``"discarded"``, ``"quality"``, the least quality that is kept,
        ``"fnmr"`` and the ends ``"low"`` and ``"high"`` of its interval, null where no genuine pair is left; and
        ``"fmr"``, ``"fmr_low"`` and ``"fmr_high"``, of the impostor pairs that are left.
        ``"pauc"`` is :meth:`~vplface.evaluation.quality.discard.DiscardCurve.mean_fnmr` up to the share,
        ``"relative"`` its ratio to the FNMR of all pairs. ``"differences"`` are those of ``"pauc"`` to the first
        score, on the same draws.
    """
    used = scores.identity >= 0
    drawn = all_draws(scores.identities, replicates, seed)
    described = {
        name: {
            "quartiles": np.quantile(quality[used], [0.25, 0.5, 0.75]).tolist(),
            **question.described.get(name, {}),
        }
        for name, quality in question.scores.items()
    }
    at = {point: _at(scores, question, threshold, drawn) for point, threshold in thresholds.items()}
    return {"share": question.share, "scores": described, "at": at}


def _at(
    scores: Scores, question: QualityQuestion, threshold: float, drawn: Int64[np.ndarray, "replicates identities"]
) -> dict[str, Any]:
    missed = scores.genuine < threshold
    people = len(np.unique(scores.identity[scores.genuine_pairs]))
    share = question.share
    everybody = np.ones(scores.identities, np.int64)
    fnmr = Figure(float(missed.mean()), count=people)
    found: dict[str, Any] = {}
    areas: dict[str, tuple[float, Float64[np.ndarray, " replicates"]]] = {}
    for name, quality in question.scores.items():
        discarding = Discarding(quality, scores.identity, scores.genuine_pairs, missed)
        curve = discarding.curve(everybody)
        matches = FalseMatches(quality, scores, threshold)
        of_draws, without, area = np.empty((len(drawn), len(SHARES))), np.empty(len(drawn)), np.empty(len(drawn))
        fmr_of_draws = np.empty_like(of_draws)
        for number, counts in enumerate(drawn):
            replicate = discarding.curve(counts)
            of_draws[number], area[number] = replicate.at(SHARES), replicate.mean_fnmr(share)
            without[number] = replicate.fnmr[0]
            fmr_of_draws[number] = matches.fmr(counts)[replicate.places(SHARES)]
        fnmr = fnmr.resampled(without)
        pauc = Figure(None, details={"reason": f"no genuine pair is left before {share:g} of the pictures are gone"})
        value = curve.mean_fnmr(share)
        if np.isfinite(value):
            pauc = Figure(value, count=people).resampled(area)
            areas[name] = (value, area)
        places = curve.places(SHARES)
        ends = _ends(of_draws, discarding.people_left(places))
        fmr_ends = _ends(fmr_of_draws, discarding.people_left(places))
        found[name] = {
            "curve": {
                "share": [round(each, 2) for each in SHARES.tolist()],
                "discarded": curve.discarded[places].tolist(),
                "fnmr": [_finite(each) for each in curve.at(SHARES).tolist()],
                "low": [low for low, _ in ends],
                "high": [high for _, high in ends],
                "fmr": [_finite(each) for each in matches.fmr(everybody)[places].tolist()],
                "fmr_low": [low for low, _ in fmr_ends],
                "fmr_high": [high for _, high in fmr_ends],
                "quality": curve.quality[places].tolist(),
            },
            "pauc": pauc.to_json(),
            "relative": _relative(pauc, fnmr, area, without, people).to_json(),
        }
    return {
        "threshold": threshold,
        "fnmr": fnmr.to_json(),
        "scores": found,
        "differences": _differences(areas, people),
    }


def _ends(
    replicates: Float64[np.ndarray, "replicates shares"], people: Int64[np.ndarray, " shares"]
) -> list[tuple[float, float] | tuple[None, None]]:
    """The interval at each share, by the people that are left there."""
    return [
        interval(column, count) or (None, None) for column, count in zip(replicates.T, people.tolist(), strict=True)
    ]


def _relative(
    pauc: Figure,
    fnmr: Figure,
    area: Float64[np.ndarray, " replicates"],
    without: Float64[np.ndarray, " replicates"],
    people: int,
) -> Figure:
    if pauc.value is None or not fnmr.value:
        return Figure(None)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = area / without
    return Figure(pauc.value / fnmr.value, interval(ratios, people, bounds=None))


def _differences(
    areas: Mapping[str, tuple[float, Float64[np.ndarray, " replicates"]]], people: int
) -> dict[str, dict[str, Any]]:
    """Of the area of each score to that of the first."""
    if len(areas) < 2:
        return {}
    (_, (value, replicates)), *others = areas.items()
    found = {}
    for name, (other, of_draws) in others:
        ends = interval(of_draws - replicates, people, bounds=None)
        clear = ends is not None and (ends[0] > 0 or ends[1] < 0)
        found[name] = Difference(other - value, ends, clear).to_json()
    return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
