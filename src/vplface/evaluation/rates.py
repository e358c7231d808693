"""Rates at operating points, metrics of the ROC, curves, groups and most wrong pairs, of any scored pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from vplface.data.pictures import PictureSet
from vplface.evaluation.bootstrap import interval
from vplface.evaluation.claims import supported
from vplface.evaluation.figure import Figure
from vplface.evaluation.groups import group_errors
from vplface.evaluation.hard_pairs import HardPairs, hard_errors
from vplface.evaluation.metrics import FNMR, METRICS, OPERATING_POINT, TAIL, TAR, far_point
from vplface.evaluation.options import EvalOptions
from vplface.evaluation.promise import comparisons_of, measure_promise
from vplface.evaluation.quality.comparison import compare_scores
from vplface.evaluation.result import Evaluation
from vplface.evaluation.roc_replicates import RateReplicates, rate_replicates, tail_length
from vplface.evaluation.scores import Scores
from vplface.evaluation.strata import Quality, stratify
from vplface.evaluation.tar_at_far import TarAtFar, TooFewImpostorsError, drawable, tar_at_far
from vplface.evaluation.worst import first_without_repetition

_BAND_POINTS = 48


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """The pairs of a task with a model's scores.

    Attributes:
        pictures: the set.
        scores: of the pairs.
        roc: false accept rate, true accept rate and threshold of each point.
        histogram: edges of the bins, genuine and impostor pairs in each.
        question: the pairs as text, which a model's scores do not change; for the fingerprint.
        quality: of the pictures, where some of them are degraded.
        hard: the pairs of nearest strangers, where they are asked for.
    """

    pictures: PictureSet
    scores: Scores
    roc: tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]
    histogram: tuple[Float[np.ndarray, " edges"], Int64[np.ndarray, " bins"], Int64[np.ndarray, " bins"]]
    question: str
    quality: Quality | None = None
    hard: HardPairs | None = None

    @cached_property
    def people(self) -> int:
        """How many people have genuine pairs."""
        return len(np.unique(self.scores.identity[self.scores.genuine_pairs]))

    @cached_property
    def band(self) -> list[float]:
        """The false accept rates at which the ROC has an interval.

        From one impostor pair up, as far as scores are kept.
        """
        fars = np.geomspace(1.0 / self.scores.impostors, 1.0, _BAND_POINTS)
        known = len(self.scores.impostor)
        return [far for far in fars.tolist() if tail_length(far, self.scores.impostors) <= known]


def evaluate_scores(
    scored: ScoredPairs,
    name: str,
    protocol: Mapping[str, Any],
    figures: Mapping[str, Figure],
    replicates: Mapping[str, Float[np.ndarray, " replicates"]],
    options: EvalOptions,
) -> Evaluation:
    """Add the measurements that all kinds of tasks share to those of one kind.

    Args:
        scored: the pairs with their scores.
        name: of the evaluation.
        protocol: how the figures of this kind were made.
        figures: of this kind, with intervals.
        replicates: of these figures.
        options: of the evaluation.
    """
    scores = scored.scores
    points = _operating_points(scores, options)
    known = [far for far, point in points.items() if isinstance(point, TarAtFar)]
    measured = _at_points(points, options, scored.people)
    for kind in METRICS:
        if kind.of_roc is not None:
            measured[kind.name] = replace(kind.of_roc(*scored.roc), count=scored.people)
    far, tar, _ = scored.roc
    curves = {"roc": dict(zip(("far", "tar"), (rate.tolist() for rate in drawable(far, tar)), strict=True))}
    resampled: dict[str, Float[np.ndarray, " replicates"]] = {}
    if options.bootstrap:
        statistics = {kind.name: kind.of_replicate for kind in METRICS if kind.of_replicate is not None}
        rates = [*known, *scored.band]
        drawn = rate_replicates(scores, rates, options.far_rule, options.bootstrap, options.seed, statistics)
        resampled = _replicates(drawn, known, options)
        measured |= {metric: measured[metric].resampled(each) for metric, each in resampled.items()}
        curves["roc_band"] = _roc_band(scored, drawn.tar[len(known) :])
    edges, genuine, impostor = scored.histogram
    curves["histogram"] = {"edges": edges.tolist(), "genuine": genuine.tolist(), "impostor": impostor.tolist()}
    thresholds = {far: point.threshold for far, point in points.items() if isinstance(point, TarAtFar)}
    missing = {far: point for far, point in points.items() if isinstance(point, TooFewImpostorsError)}
    by_stratum: dict[str, Any] = {}
    if scored.quality is not None:
        by_stratum, of_strata = stratify(scores, scored.quality, thresholds, options.bootstrap, options.seed)
        measured |= {**of_strata.of, **{TAIL.at(far).key: _none(error) for far, error in missing.items()}}
        resampled |= of_strata.replicates
    question = f"{options.bootstrap}\t{options.seed}\n{scored.question}"
    return Evaluation(
        name=name,
        protocol={**protocol, **_protocol(scores, options)},
        metrics={**figures, **measured},
        curves=curves,
        worst={
            "genuine": _worst(scores.genuine[::-1], scores.genuine_pairs[::-1], scored),
            "impostor": _worst(scores.impostor, scores.impostor_pairs, scored),
        },
        fingerprint=hashlib.sha256(question.encode("utf-8", "surrogateescape")).hexdigest()[:32],
        replicates={**replicates, **resampled},
        strata=by_stratum,
        **_at_thresholds(scored, thresholds, options),
    )


def _at_thresholds(scored: ScoredPairs, of_fars: Mapping[float, float], options: EvalOptions) -> dict[str, Any]:
    """Errors by group, at the stored threshold, of hard impostors, and by quality: the fields that were asked for.

    All are judged at the thresholds of the false accept rates, and at the stored one.
    """
    bootstrap, seed = options.bootstrap, options.seed
    thresholds = {far_point(far): threshold for far, threshold in of_fars.items()}
    fars = {far_point(far): far for far in of_fars}
    found: dict[str, Any] = {}
    if (promise := options.promise) is not None:
        found["promise"] = measure_promise(scored.scores, promise, bootstrap, seed)
        thresholds[OPERATING_POINT], fars[OPERATING_POINT] = promise.threshold, promise.far
    if options.groups is not None:
        found["groups"] = group_errors(scored.scores, options.groups, thresholds, bootstrap, seed)
    if options.quality is not None:
        found["quality"] = compare_scores(scored.scores, options.quality, thresholds, bootstrap, seed)
    if scored.hard is not None:
        found["hard"] = hard_errors(scored.hard, thresholds, fars, options.far_rule, bootstrap, seed)
    return found


def _protocol(scores: Scores, options: EvalOptions) -> dict[str, Any]:
    claims = {}
    if options.claims:
        claims["claims"] = supported(comparisons_of(scores), {*options.fars, *options.fmrs})
    return {
        "genuine": len(scores.genuine),
        "impostors": scores.impostors,
        "identities": scores.identities,
        **claims,
        "accept": "similarity >= threshold",
        "flip": options.flip or "not known",
        "far_rule": options.far_rule,
        "bootstrap": options.bootstrap,
        "seed": options.seed,
    }


def _operating_points(scores: Scores, options: EvalOptions) -> dict[float, TarAtFar | TooFewImpostorsError]:
    """The point of the ROC at each rate, from loose to strict, or the reason why there is none."""
    points: dict[float, TarAtFar | TooFewImpostorsError] = {}
    for far in sorted({*options.fars, *options.fmrs}, reverse=True):
        try:
            points[far] = tar_at_far(scores.genuine, scores.impostor, far, options.far_rule, scores.impostors)
        except TooFewImpostorsError as error:
            points[far] = error
    return points


def _at_points(
    points: Mapping[float, TarAtFar | TooFewImpostorsError], options: EvalOptions, people: int
) -> dict[str, Figure]:
    """TAR at FAR and FNMR at FMR."""
    figures = {}
    for kind, rates in ((TAR, options.fars), (FNMR, options.fmrs)):
        for rate in sorted(set(rates), reverse=True):
            point, metric = points[rate], kind.at(rate).key
            if isinstance(point, TooFewImpostorsError):
                figures[metric] = _none(point)
                continue
            details = {"threshold": point.threshold, "actual_far": point.actual_far}
            figures[metric] = Figure(point.tar if kind is TAR else 1.0 - point.tar, None, details, people)
    return figures


def _none(error: TooFewImpostorsError) -> Figure:
    return Figure(None, details={"threshold": None, "actual_far": None, "reason": str(error)})


def _replicates(
    drawn: RateReplicates, known: list[float], options: EvalOptions
) -> dict[str, Float[np.ndarray, " replicates"]]:
    """The replicates of each metric; none of a metric that no draw gives."""
    tar = dict(zip(known, drawn.tar, strict=False))
    replicates = {TAR.at(far).key: tar[far] for far in sorted(set(options.fars), reverse=True) if far in tar}
    replicates |= {FNMR.at(fmr).key: 1.0 - tar[fmr] for fmr in sorted(set(options.fmrs), reverse=True) if fmr in tar}
    return replicates | {name: each for name, each in drawn.statistics.items() if np.isfinite(each).any()}


def _roc_band(scored: ScoredPairs, replicates: Float[np.ndarray, "fars replicates"]) -> dict[str, list[float]]:
    """False accept rates, and the ends of the interval of the true accept rate at each."""
    ends = [interval(tar, scored.people, bounds=None) for tar in replicates]
    known = [(far, *both) for far, both in zip(scored.band, ends, strict=True) if both is not None]
    return {key: [point[place] for point in known] for place, key in enumerate(("far", "low", "high"))}


def _worst(
    similarity: Float[np.ndarray, " p"], pairs: Int[np.ndarray, "p 2"], scored: ScoredPairs
) -> list[Mapping[str, Any]]:
    name, quality = scored.pictures.name, scored.quality
    return [
        {"left": name(left), "right": name(right), "similarity": score}
        | ({} if quality is None else quality.of_pair(left, right))
        for score, left, right in first_without_repetition(similarity, pairs)
    ]
