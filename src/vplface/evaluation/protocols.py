"""The questions that can be put to a model: a list of pairs, or all pairs of a set of people.

Each comes in two forms: one embeds the pictures, the other takes embeddings that are there already, so that several
questions can share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vplface.data.pairs import Pairs, resolve
from vplface.data.pictures import PictureSet
from vplface.embedder import Embedder, Flip
from vplface.errors import DataError
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.bootstrap import accuracy_replicates, all_draws, interval, share_replicates
from vplface.evaluation.error_rates import area_under_curve, equal_error_rate
from vplface.evaluation.figure import Figure
from vplface.evaluation.groups import Groups, group_errors
from vplface.evaluation.metrics import ACCURACY, AUC, BEST_ACCURACY, EER, FNMR, RANK, TAR, far_point
from vplface.evaluation.result import Evaluation
from vplface.evaluation.roc_replicates import rate_replicates, tail_length
from vplface.evaluation.scores import Scores, cosine, scores_of_pairs
from vplface.evaluation.tar_at_far import FarRule, TarAtFar, TooFewImpostorsError, drawable, roc, tar_at_far
from vplface.evaluation.unit import require_direction
from vplface.evaluation.verification import Protocol, accuracy_at, choose_threshold, kfold_accuracy
from vplface.evaluation.worst import first_without_repetition

FARS = (1e-2, 1e-3, 1e-4)
_KEEP_AT_LEAST = 1_000_000
_HISTOGRAM_BINS = 100
_BAND_POINTS = 48


def evaluate_pairs(
    embedder: Embedder,
    pictures: PictureSet,
    pairs: Pairs,
    *,
    name: str = "pairs",
    threshold_pairs: Pairs | None = None,
    flip: Flip = "sum",
    fars: Sequence[float] = FARS,
    fmrs: Sequence[float] = (),
    protocol: Protocol = "exact",
    far_rule: FarRule = "strict",
    bootstrap: int = 500,
    seed: int = 0,
    groups: Groups | None = None,
    workers: int = 0,
) -> Evaluation:
    """Verification on a list of pairs; only the pictures that the pairs name are embedded.

    The accuracy is called ``"accuracy"`` only where the threshold was chosen on other pairs: on ``threshold_pairs``
    if they are given (LFW View 1), or else on the other folds of the list. A list in one fold without
    ``threshold_pairs`` gives ``"accuracy@best_threshold"``, which flatters.

    Args:
        embedder: the model.
        pictures: where the pairs' pictures are.
        pairs: the question.
        name: of the evaluation.
        threshold_pairs: pairs, of other people, to choose the threshold on.
        flip: whether the embedding of the mirrored picture is added.
        fars: false accept rates to give the true accept rate at, over all pairs together.
        fmrs: false match rates to give the false non-match rate at: the same points, said as errors.
        protocol: how thresholds are chosen, see :mod:`vplface.evaluation.verification`.
        far_rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        bootstrap: resamples of the people for the intervals; 0 for none.
        seed: of the resamples.
        groups: of the pictures, to give the errors of each group at the thresholds of ``fars`` and ``fmrs``.
        workers: processes that decode pictures.

    Raises:
        DataError: pictures that are missing or cannot be read, embeddings that are zero or not finite, pairs all of
            one kind, or folds that cannot be averaged (:func:`check_folds`).
    """
    lists = [pairs] if threshold_pairs is None else [pairs, threshold_pairs]
    used = np.unique(np.concatenate([index for part in lists for index in resolve(part, pictures)]))
    some = embedder.embed_set(pictures, used, flip=flip, workers=workers, description=f"embedding for {name}")
    embeddings = np.full((len(pictures), some.shape[1]), np.nan, np.float32)
    embeddings[used] = some
    return evaluate_pairs_embedded(
        embeddings,
        pictures,
        pairs,
        name=name,
        threshold_pairs=threshold_pairs,
        flip=flip,
        fars=fars,
        fmrs=fmrs,
        protocol=protocol,
        far_rule=far_rule,
        bootstrap=bootstrap,
        seed=seed,
        groups=groups,
    )


def evaluate_pairs_embedded(
    embeddings: Float[np.ndarray, "n dim"],
    pictures: PictureSet,
    pairs: Pairs,
    *,
    name: str = "pairs",
    threshold_pairs: Pairs | None = None,
    flip: Flip | None,
    fars: Sequence[float] = FARS,
    fmrs: Sequence[float] = (),
    protocol: Protocol = "exact",
    far_rule: FarRule = "strict",
    bootstrap: int = 500,
    seed: int = 0,
    groups: Groups | None = None,
) -> Evaluation:
    """:func:`evaluate_pairs` on embeddings of the whole set.

    Rows of pictures that no pair names may hold anything; ``flip`` says how the embeddings were made, None that this
    is not known.
    """
    left, right = resolve(pairs, pictures)
    similarity = _similarity(embeddings, left, right, pictures)
    same = pairs.same
    if same.all() or not same.any():
        raise DataError(f"{name}: all {len(same)} pairs show {'one person' if same.all() else 'two people'}; need both")
    scores = scores_of_pairs(similarity, same, left, right, pictures.labels)
    folds, fold = np.unique(pairs.fold, return_inverse=True)
    if threshold_pairs is None:
        check_folds(same, pairs.fold, name)
    metric = ACCURACY.name
    details: dict[str, Any]
    threshold_from = "the other folds"
    if threshold_pairs is not None:
        threshold_from = f"{len(threshold_pairs):,} other pairs"
        chosen_on = _similarity(embeddings, *resolve(threshold_pairs, pictures), pictures), threshold_pairs.same
    elif len(folds) == 1:
        metric, threshold_from = BEST_ACCURACY.name, "the same pairs (flatters)"
        chosen_on = similarity, same
    if threshold_pairs is None and len(folds) > 1:
        crossed = kfold_accuracy(similarity, same, fold, protocol)
        thresholds = crossed.thresholds[fold]
        share = 1.0 / (len(folds) * np.bincount(fold)[fold])
        value = crossed.mean
        details = {"std": crossed.std, "threshold": float(crossed.thresholds.mean())}
        details |= {"per_fold": crossed.per_fold.tolist(), "thresholds": crossed.thresholds.tolist()}
    else:
        threshold = choose_threshold(*chosen_on, protocol)
        thresholds = np.full(len(same), threshold)
        share = np.full(len(same), 1.0 / len(same))
        per_fold = [accuracy_at(threshold, similarity[fold == f], same[fold == f]) for f in range(len(folds))]
        std = float(np.std(per_fold)) if len(folds) > 1 else None
        value = accuracy_at(threshold, similarity, same)
        details = {"std": std, "threshold": threshold}

    people = scores.identity[np.stack([left, right], axis=1)]
    replicates = {}
    figure = Figure(value, None, details, scores.identities)
    correct = (similarity >= thresholds) == same
    if bootstrap:
        replicates[metric] = accuracy_replicates(correct, same, share, people, bootstrap, seed)
        figure = figure.resampled(replicates[metric])
    contradicted = int(((people[:, 0] == people[:, 1]) != same).sum())
    told = {
        "kind": "pair list",
        "pairs": len(same),
        "folds": len(folds),
        "accuracy_rule": protocol,
        "threshold_from": threshold_from,
        "contradicted_by_folders": contradicted,
    }
    edges = np.linspace(-1.0, 1.0, _HISTOGRAM_BINS + 1)
    asked = "\n".join(
        f"{a}\t{b}\t{int(s)}\t{f}" for a, b, s, f in zip(pairs.left, pairs.right, same, pairs.fold, strict=True)
    )
    evaluation = _evaluation(
        name,
        {key: value for key, value in told.items() if key != "contradicted_by_folders" or value},
        {metric: figure},
        replicates,
        scores,
        roc(scores.genuine, scores.impostor),
        (edges, np.histogram(scores.genuine, edges)[0], np.histogram(scores.impostor, edges)[0]),
        pictures,
        asked,
        flip=flip,
        fars=fars,
        fmrs=fmrs,
        far_rule=far_rule,
        bootstrap=bootstrap,
        seed=seed,
        groups=groups,
    )
    return replace(evaluation, correct=correct)


def check_folds(same: Bool[np.ndarray, " p"], fold: Int64[np.ndarray, " p"], name: str) -> None:
    """Refuse folds whose accuracies have no meaningful mean.

    Raises:
        DataError: a fold without genuine or without impostor pairs, where a threshold that accepts or rejects all
            would be right, or one of more than twice as many pairs as another, for all folds count alike.
    """
    numbers, sizes = np.unique(fold, return_counts=True)
    for number in numbers if len(numbers) > 1 else ():
        of_fold = same[fold == number]
        if of_fold.all() or not of_fold.any():
            raise DataError(
                f"{name}: fold {number} holds no {'impostor' if of_fold.all() else 'genuine'} pairs; every fold needs "
                "both kinds. Divide the pairs anew, or leave the folds out and choose the threshold on other pairs"
            )
    if sizes.max() > 2 * sizes.min():
        small, large = int(sizes.argmin()), int(sizes.argmax())
        raise DataError(
            f"{name}: fold {numbers[large]} holds {sizes[large]} pairs, fold {numbers[small]} only {sizes[small]}; "
            "folds count alike in the mean, so they must be of similar size (at most twice another's). Divide the "
            "pairs anew, or leave the folds out and choose the threshold on other pairs"
        )


def evaluate_all_pairs(
    embedder: Embedder,
    pictures: PictureSet,
    *,
    name: str = "all pairs",
    flip: Flip = "sum",
    fars: Sequence[float] = FARS,
    fmrs: Sequence[float] = (),
    far_rule: FarRule = "strict",
    bootstrap: int = 500,
    seed: int = 0,
    groups: Groups | None = None,
    workers: int = 0,
) -> Evaluation:
    """Every picture of a set against every other: TAR at low FAR, where a list of pairs has too few impostors.

    ``"rank-1"`` is the share of pictures whose nearest other picture shows the same person, among those whose person
    has another; a tie of the two kinds counts as wrong. Its replicates draw the people who are looked for, and leave
    those among whom they are looked for as they are.

    Args:
        embedder: the model.
        pictures: the people.
        name: of the evaluation.
        flip: whether the embedding of the mirrored picture is added.
        fars: false accept rates to give the true accept rate at.
        fmrs: false match rates to give the false non-match rate at: the same points, said as errors.
        far_rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        bootstrap: resamples of the people for the intervals; 0 for none.
        seed: of the resamples.
        groups: of the pictures, to give the errors of each group at the thresholds of ``fars`` and ``fmrs``.
        workers: processes that decode pictures.

    Raises:
        DataError: pictures that cannot be read, embeddings that are zero or not finite, or no pairs of one kind.
    """
    embeddings = embedder.embed_set(pictures, flip=flip, workers=workers, description=f"embedding for {name}")
    return evaluate_all_pairs_embedded(
        embeddings,
        pictures,
        name=name,
        flip=flip,
        fars=fars,
        fmrs=fmrs,
        far_rule=far_rule,
        bootstrap=bootstrap,
        seed=seed,
        groups=groups,
    )


def evaluate_all_pairs_embedded(
    embeddings: Float[np.ndarray, "n dim"],
    pictures: PictureSet,
    *,
    name: str = "all pairs",
    flip: Flip | None,
    fars: Sequence[float] = FARS,
    fmrs: Sequence[float] = (),
    far_rule: FarRule = "strict",
    bootstrap: int = 500,
    seed: int = 0,
    groups: Groups | None = None,
) -> Evaluation:
    """:func:`evaluate_all_pairs` on embeddings of the whole set; ``flip`` says how they were made, None: not known."""
    n = len(pictures)
    unit = _unit(embeddings, np.arange(n), pictures)
    impostors = n * (n - 1) // 2  # or fewer
    keep = max([_KEEP_AT_LEAST, *(tail_length(far, impostors) for far in (*fars, *fmrs))])
    compared = score_all_pairs(unit, pictures.labels, keep)
    scores = compared.scores
    if not len(scores.genuine) or not scores.impostors:
        missing = "two pictures of one person" if not len(scores.genuine) else "two people"
        raise DataError(f"{name}: among these {n} pictures there are no {missing}")
    rank_1 = RANK.at(1).key
    figure, resampled = _rank_1(compared.nearest, scores, bootstrap, seed)
    merge = len(compared.genuine) // _HISTOGRAM_BINS
    genuine, impostor = (counts.reshape(-1, merge).sum(axis=1) for counts in (compared.genuine, compared.impostor))
    return _evaluation(
        name,
        {"kind": "all pairs", "pictures": n, "pairs": n * (n - 1) // 2},
        {rank_1: figure},
        {} if resampled is None else {rank_1: resampled},
        scores,
        compared.roc(),
        (compared.edges[::merge], genuine, impostor),
        pictures,
        "\n".join(f"{pictures.name(index)}\t{scores.identity[index]}" for index in range(n)),
        flip=flip,
        fars=fars,
        fmrs=fmrs,
        far_rule=far_rule,
        bootstrap=bootstrap,
        seed=seed,
        groups=groups,
    )


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


def _evaluation(
    name: str,
    protocol: Mapping[str, Any],
    metrics: Mapping[str, Figure],
    replicates: Mapping[str, Float[np.ndarray, " replicates"]],
    scores: Scores,
    curve: tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]],
    histogram: tuple[Float[np.ndarray, " bins+1"], Int64[np.ndarray, " bins"], Int64[np.ndarray, " bins"]],
    pictures: PictureSet,
    asked: str,
    *,
    flip: Flip | None,
    fars: Sequence[float],
    fmrs: Sequence[float],
    far_rule: FarRule,
    bootstrap: int,
    seed: int,
    groups: Groups | None,
) -> Evaluation:
    """Add to the figures of one kind of question what all kinds share."""
    figures = dict(metrics)
    resampled = dict(replicates)
    people = len(np.unique(scores.identity[scores.genuine_pairs]))
    points: dict[float, TarAtFar | TooFewImpostorsError] = {}
    for far in sorted({*fars, *fmrs}, reverse=True):
        try:
            points[far] = tar_at_far(scores.genuine, scores.impostor, far, far_rule, scores.impostors)
        except TooFewImpostorsError as error:
            points[far] = error
    known = [far for far, point in points.items() if isinstance(point, TarAtFar)]
    band = _band(scores)
    if bootstrap:
        drawn = rate_replicates(scores, [*known, *band], far_rule, bootstrap, seed)
        tar = dict(zip(known, drawn.tar, strict=False))
    quoted = [(TAR.at(far).key, far, False) for far in sorted(set(fars), reverse=True)]
    quoted += [(FNMR.at(far).key, far, True) for far in sorted(set(fmrs), reverse=True)]
    for metric, far, as_error in quoted:
        point = points[far]
        if isinstance(point, TooFewImpostorsError):
            figures[metric] = Figure(None, details={"threshold": None, "actual_far": None, "reason": str(point)})
            continue
        details = {"threshold": point.threshold, "actual_far": point.actual_far}
        figures[metric] = Figure(1.0 - point.tar if as_error else point.tar, None, details, people)
        if bootstrap:
            resampled[metric] = 1.0 - tar[far] if as_error else tar[far]
    far_points, tar_points, _ = curve
    equal = equal_error_rate(*curve)
    figures[EER.name] = Figure(equal.rate, None, {"threshold": equal.threshold}, people)
    figures[AUC.name] = Figure(area_under_curve(far_points, tar_points), count=people)
    curves = {
        "roc": dict(zip(("far", "tar"), (rate.tolist() for rate in drawable(far_points, tar_points)), strict=True))
    }
    if bootstrap:
        whole = {EER.name: drawn.eer, AUC.name: drawn.auc}
        resampled |= {metric: values for metric, values in whole.items() if np.isfinite(values).any()}
        for metric in resampled.keys() - metrics.keys():
            figures[metric] = figures[metric].resampled(resampled[metric])
        ends = {far: interval(tar, people, bounds=None) for far, tar in zip(band, drawn.tar[len(known) :], strict=True)}
        told = [(far, *both) for far, both in ends.items() if both is not None]
        curves["roc_band"] = {key: [point[k] for point in told] for k, key in enumerate(("far", "low", "high"))}
    edges, genuine, impostor = histogram
    curves["histogram"] = {"edges": edges.tolist(), "genuine": genuine.tolist(), "impostor": impostor.tolist()}
    fingerprint = hashlib.sha256(f"{bootstrap}\t{seed}\n{asked}".encode("utf-8", "surrogateescape"))
    thresholds = {far_point(far): point.threshold for far, point in points.items() if isinstance(point, TarAtFar)}
    return Evaluation(
        name=name,
        protocol={
            **protocol,
            "genuine": len(scores.genuine),
            "impostors": scores.impostors,
            "identities": scores.identities,
            "accept": "similarity >= threshold",
            "flip": flip or "not known",
            "far_rule": far_rule,
            "bootstrap": bootstrap,
            "seed": seed,
        },
        metrics=figures,
        curves=curves,
        worst={
            "genuine": _worst(scores.genuine[::-1], scores.genuine_pairs[::-1], pictures),
            "impostor": _worst(scores.impostor, scores.impostor_pairs, pictures),
        },
        fingerprint=fingerprint.hexdigest()[:32],
        replicates=resampled,
        groups={} if groups is None else group_errors(scores, groups, thresholds, bootstrap, seed),
    )


def _band(scores: Scores) -> list[float]:
    """False accept rates at which the curve has an interval: from one impostor pair up, as far as scores are kept."""
    fars = np.geomspace(1.0 / scores.impostors, 1.0, _BAND_POINTS)
    return [far for far in fars.tolist() if tail_length(far, scores.impostors) <= len(scores.impostor)]


def _worst(
    similarity: Float[np.ndarray, " p"], pairs: Int64[np.ndarray, "p 2"], pictures: PictureSet
) -> list[Mapping[str, Any]]:
    return [
        {"left": pictures.name(left), "right": pictures.name(right), "similarity": score}
        for score, left, right in first_without_repetition(similarity, pairs)
    ]


def _similarity(
    embeddings: Float[np.ndarray, "n dim"],
    left: Int64[np.ndarray, " p"],
    right: Int64[np.ndarray, " p"],
    pictures: PictureSet,
) -> Float[np.ndarray, " p"]:
    used, positions = np.unique(np.concatenate([left, right]), return_inverse=True)
    return cosine(_unit(embeddings, used, pictures), positions[: len(left)], positions[len(left) :])


def _unit(
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
