"""The two protocols of verification: a list of pairs, and all pairs of a set of pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vplface.data.degrade import DegradedPictures
from vplface.data.pairs import Pairs, resolve
from vplface.data.pictures import PictureSet
from vplface.errors import DataError
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.bootstrap import accuracy_replicates, all_draws, share_replicates
from vplface.evaluation.calibrate import calibrate, judge
from vplface.evaluation.figure import Figure
from vplface.evaluation.hard_pairs import HardPairs
from vplface.evaluation.metrics import ACCURACY, BEST_ACCURACY, RANK, MetricKind
from vplface.evaluation.options import EvalOptions
from vplface.evaluation.rates import ScoredPairs, evaluate_scores
from vplface.evaluation.result import Evaluation
from vplface.evaluation.roc_replicates import tail_length
from vplface.evaluation.scores import Scores, cosine, scores_of_pairs
from vplface.evaluation.strata import Quality
from vplface.evaluation.tar_at_far import roc
from vplface.evaluation.unit import require_direction
from vplface.evaluation.verification import AccuracyRule, accuracy_at, choose_threshold, kfold_accuracy

_KEEP_AT_LEAST = 1_000_000
_HISTOGRAM_BINS = 100


@dataclass(frozen=True, eq=False)
class ResolvedPairs:
    """A list of pairs and where their pictures are in a set.

    Attributes:
        pairs: the list.
        pictures: the set.
        left: position of one picture of each pair.
        right: position of the other picture.
    """

    pairs: Pairs
    pictures: PictureSet
    left: Int64[np.ndarray, " p"]
    right: Int64[np.ndarray, " p"]

    @classmethod
    def of(cls, pairs: Pairs, pictures: PictureSet) -> ResolvedPairs:
        """Look the pictures up; raises DataError for those that the set does not have."""
        if not isinstance(pictures, DegradedPictures):
            return cls(pairs, pictures, *resolve(pairs, pictures))
        left, right = resolve(pairs, pictures.original)
        return cls(pairs, pictures, left, pictures.second[right])

    def similarity(self, embeddings: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " p"]:
        """The cosine of each pair."""
        used, positions = np.unique(np.concatenate([self.left, self.right]), return_inverse=True)
        count = len(self.left)
        return cosine(_unit_rows(embeddings, used, self.pictures), positions[:count], positions[count:])


def evaluate_pair_list(
    embeddings: Float[np.ndarray, "n dim"],
    listed: ResolvedPairs,
    threshold_pairs: ResolvedPairs | None,
    name: str,
    options: EvalOptions,
) -> Evaluation:
    """Accuracy and rates on a list of pairs.

    Args:
        embeddings: of the whole set; rows of pictures that no pair names may hold anything.
        listed: the pairs.
        threshold_pairs: pairs to choose the threshold on; None for the other folds.
        name: of the evaluation.
        options: of the evaluation.

    Raises:
        DataError: see :func:`vplface.evaluation.evaluate_pairs`.
    """
    pairs, same = listed.pairs, listed.pairs.same
    similarity = listed.similarity(embeddings)
    if same.all() or not same.any():
        raise DataError(f"{name}: all {len(same)} pairs show {'one person' if same.all() else 'two people'}; need both")
    scores = scores_of_pairs(similarity, same, listed.left, listed.right, listed.pictures.labels)
    folds, fold = np.unique(pairs.fold, return_inverse=True)
    if threshold_pairs is None:
        check_folds(same, pairs.fold, name)
    if threshold_pairs is not None:
        threshold_from = f"{len(threshold_pairs.pairs):,} other pairs"
        threshold = choose_threshold(
            threshold_pairs.similarity(embeddings), threshold_pairs.pairs.same, options.protocol
        )
        accuracy = _accuracy_at(ACCURACY, threshold, similarity, same, fold)
    elif len(folds) == 1:
        threshold_from = "the same pairs (optimistic)"
        threshold = choose_threshold(similarity, same, options.protocol)
        accuracy = _accuracy_at(BEST_ACCURACY, threshold, similarity, same, fold)
    else:
        threshold_from = "the other folds"
        accuracy = _accuracy_over_folds(similarity, same, fold, options.protocol)
    people = scores.identity[np.stack([listed.left, listed.right], axis=1)]
    figure = replace(accuracy.figure, count=scores.identities)
    replicates = {}
    correct = (similarity >= accuracy.thresholds) == same
    if options.bootstrap:
        resampled = accuracy_replicates(correct, same, accuracy.share, people, options.bootstrap, options.seed)
        figure, replicates = figure.resampled(resampled), {accuracy.kind.name: resampled}
    protocol: dict[str, Any] = {
        "kind": "pair list",
        "pairs": len(same),
        "folds": len(folds),
        "accuracy_rule": options.protocol,
        "threshold_from": threshold_from,
    }
    if contradicted := int(((people[:, 0] == people[:, 1]) != same).sum()):
        protocol["contradicted_by_folders"] = contradicted
    edges = np.linspace(-1.0, 1.0, _HISTOGRAM_BINS + 1)
    question = "\n".join(
        f"{a}\t{b}\t{int(s)}\t{f}" for a, b, s, f in zip(pairs.left, pairs.right, same, pairs.fold, strict=True)
    )
    scored = ScoredPairs(
        listed.pictures,
        scores,
        roc(scores.genuine, scores.impostor),
        (edges, np.histogram(scores.genuine, edges)[0], np.histogram(scores.impostor, edges)[0]),
        question,
        _quality(embeddings, listed.pictures, scores, options),
    )
    evaluation = evaluate_scores(scored, name, protocol, {accuracy.kind.name: figure}, replicates, options)
    return replace(evaluation, correct=correct)


@dataclass(frozen=True, eq=False)
class _Accuracy:
    """An accuracy.

    Attributes:
        kind: the metric, by where the threshold is from.
        figure: without interval.
        thresholds: at which each pair is judged.
        share: weight of each pair; the weights sum to 1.
    """

    kind: MetricKind
    figure: Figure
    thresholds: Float64[np.ndarray, " p"]
    share: Float64[np.ndarray, " p"]


def _accuracy_at(
    kind: MetricKind,
    threshold: float,
    similarity: Float64[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    fold: Int64[np.ndarray, " p"],
) -> _Accuracy:
    folds = range(int(fold.max()) + 1)
    per_fold = [accuracy_at(threshold, similarity[fold == number], same[fold == number]) for number in folds]
    details = {"std": float(np.std(per_fold)) if len(folds) > 1 else None, "threshold": threshold}
    figure = Figure(accuracy_at(threshold, similarity, same), details=details)
    return _Accuracy(kind, figure, np.full(len(same), threshold), np.full(len(same), 1.0 / len(same)))


def _accuracy_over_folds(
    similarity: Float64[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    fold: Int64[np.ndarray, " p"],
    protocol: AccuracyRule,
) -> _Accuracy:
    crossed = kfold_accuracy(similarity, same, fold, protocol)
    details = {
        "std": crossed.std,
        "threshold": float(crossed.thresholds.mean()),
        "per_fold": crossed.per_fold.tolist(),
        "thresholds": crossed.thresholds.tolist(),
    }
    share = 1.0 / (len(crossed.thresholds) * np.bincount(fold)[fold])
    return _Accuracy(ACCURACY, Figure(crossed.mean, details=details), crossed.thresholds[fold], share)


def check_folds(same: Bool[np.ndarray, " p"], fold: Int64[np.ndarray, " p"], name: str) -> None:
    """Refuse folds whose accuracies have no meaningful mean.

    Raises:
        DataError: a fold without genuine or without impostor pairs, where a threshold that accepts or rejects all
            would be right, or one with more than twice as many pairs as another, because all folds have equal weight.
    """
    numbers, sizes = np.unique(fold, return_counts=True)
    for number in numbers if len(numbers) > 1 else ():
        of_fold = same[fold == number]
        if of_fold.all() or not of_fold.any():
            raise DataError(
                f"{name}: fold {number} holds no {'impostor' if of_fold.all() else 'genuine'} pairs; every fold needs "
                "both kinds. Divide the pairs again, or leave the folds out and choose the threshold on other pairs"
            )
    if sizes.max() > 2 * sizes.min():
        small, large = int(sizes.argmin()), int(sizes.argmax())
        raise DataError(
            f"{name}: fold {numbers[large]} holds {sizes[large]} pairs, fold {numbers[small]} only {sizes[small]}; "
            "folds have equal weight, so they must be of similar size (at most twice another's). Divide "
            "the pairs again, or leave the folds out and choose the threshold on other pairs"
        )


def evaluate_every_pair(
    embeddings: Float[np.ndarray, "n dim"], pictures: PictureSet, name: str, options: EvalOptions
) -> Evaluation:
    """Rank-1 and rates over all pairs of a set of pictures.

    Args:
        embeddings: a row for each picture.
        pictures: the set.
        name: of the evaluation.
        options: of the evaluation; that of the accuracy does not matter.

    Raises:
        DataError: see :func:`vplface.evaluation.evaluate_all_pairs`.
    """
    n = len(pictures)
    unit = _unit_rows(embeddings, np.arange(n), pictures)
    impostors = n * (n - 1) // 2  # or fewer
    keep = max([_KEEP_AT_LEAST, *(tail_length(far, impostors) for far in (*options.fars, *options.fmrs))])
    compared = score_all_pairs(unit, pictures.labels, keep)
    scores = compared.scores
    if not len(scores.genuine) or not scores.impostors:
        missing = "two pictures of one person" if not len(scores.genuine) else "two people"
        raise DataError(f"{name}: among these {n} pictures there are no {missing}")
    rank_1 = RANK.at(1).key
    figure, resampled = _rank_1(compared.nearest, scores, options.bootstrap, options.seed)
    merge = len(compared.genuine) // _HISTOGRAM_BINS
    genuine, impostor = (counts.reshape(-1, merge).sum(axis=1) for counts in (compared.genuine, compared.impostor))
    scored = ScoredPairs(
        pictures,
        scores,
        compared.roc(),
        (compared.edges[::merge], genuine, impostor),
        "\n".join(f"{pictures.name(index)}\t{scores.identity[index]}" for index in range(n)),
        _quality(embeddings, pictures, scores, options),
        HardPairs.of(unit, scores, options.hard) if options.hard else None,
    )
    protocol = {"kind": "all pairs", "pictures": n, "pairs": n * (n - 1) // 2}
    replicates = {} if resampled is None else {rank_1: resampled}
    evaluation = evaluate_scores(scored, name, protocol, {rank_1: figure}, replicates, options)
    draws = options.bootstrap, options.seed
    if options.promise is not None and (stored := options.promise.calibration) is not None:
        judged = judge(stored, unit, scores.identity, *draws)
        evaluation = replace(evaluation, promise={**evaluation.promise, "calibration": judged})
    if options.calibrate is not None:
        evaluation = replace(evaluation, calibration=calibrate(options.calibrate, unit, scores.identity, *draws))
    return evaluation


def _quality(
    embeddings: Float[np.ndarray, "n dim"], pictures: PictureSet, scores: Scores, options: EvalOptions
) -> Quality | None:
    """The quality of the pictures that are compared; None for a set that is not degraded."""
    if not isinstance(pictures, DegradedPictures):
        return None
    used = np.flatnonzero(scores.identity >= 0)
    unit = _unit_rows(embeddings, used, pictures)
    return Quality.of(unit, used, pictures.degraded, scores.identity, options.bootstrap, options.seed)


def _rank_1(
    nearest: Float[np.ndarray, "2 n"], scores: Scores, bootstrap: int, seed: int
) -> tuple[Figure, Float64[np.ndarray, " replicates"] | None]:
    """The share of pictures that are nearest to another of their person, and its replicates, if there are any."""
    own, other = nearest
    mated = np.isfinite(own)
    correct, person = (own > other)[mated], scores.identity[mated]
    figure = Figure(float(correct.mean()), count=len(np.unique(person)))
    if not bootstrap:
        return figure, None
    replicates = share_replicates(correct, person, all_draws(scores.identities, bootstrap, seed))
    return figure.resampled(replicates), replicates


def _unit_rows(
    embeddings: Float[np.ndarray, "n dim"], used: Int64[np.ndarray, " m"], pictures: PictureSet
) -> Float64[np.ndarray, "m dim"]:
    """The rows that are used, at unit norm."""
    if embeddings.ndim != 2 or len(embeddings) != len(pictures):
        raise ValueError(f"embeddings must be [{len(pictures)}, dim], a row per picture, got {embeddings.shape}")
    chosen: Float64[np.ndarray, "m dim"] = embeddings[used].astype(np.float64)
    norms = np.linalg.norm(chosen, axis=1, keepdims=True)
    require_direction(norms[:, 0], lambda row: pictures.name(int(used[row])))
    chosen /= norms
    return chosen
