"""One evaluation of the people of all folds, each tested by the model that was not trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Figure
from vplface.study.grid import Cell

PEOPLE_OF_FOLDS = "people_of_folds"
"""The entry of a protocol that holds the number of people tested in each fold."""


def join_folds(of_folds: Sequence[Mapping[str, Evaluation]]) -> dict[str, Evaluation]:
    """One evaluation per set from those of all folds of one seed.

    The figure is Σ_f n_f·v_f / Σ_f n_f over the figures v_f and the numbers n_f of people of the folds. Each v_f has a
    threshold of its own, because the scores of different models are not comparable. The variance of v_f falls with
    n_f, so weights by people are nearly those of the least variance, and they depend on no model. Weights by genuine
    pairs, whose number grows with the square of the pictures of a person, would leave most of the mean to the fold of
    the person who has the most.

    Replicate r joins the replicates r + f of the folds f by the same weights. Replicates of different numbers are
    independent draws, as people of different folds are. The same ones are joined for every arm and seed, so that both
    stay paired.

    Args:
        of_folds: {set: evaluation} of each fold, in the order of their numbers.
    """
    joined = {}
    for name in of_folds[0]:
        parts = [evaluations[name] for evaluations in of_folds]
        people = np.array([int(part.protocol["identities"]) for part in parts])
        weights, total = people / people.sum(), int(people.sum())
        metrics: dict[str, Figure] = {}
        replicates = {}
        for metric in dict.fromkeys(metric for part in parts for metric in part.metrics):
            figures = [part.metrics.get(metric, Figure(None)) for part in parts]
            values = [figure.value for figure in figures if figure.value is not None]
            if len(values) < len(parts):
                metrics[metric] = Figure(None, details={"reason": _reason(figures)})
                continue
            metrics[metric] = Figure(float(weights @ values), None, {"per_fold": values}, total)
            if all(metric in part.replicates for part in parts):
                shifted = [np.roll(part.replicates[metric], -number) for number, part in enumerate(parts)]
                replicates[metric] = weights @ np.stack(shifted)
                metrics[metric] = metrics[metric].resampled(replicates[metric])
        joined[name] = Evaluation(
            name,
            {"identities": total, PEOPLE_OF_FOLDS: people.tolist()},
            metrics,
            fingerprint=hashlib.sha256("\n".join(part.fingerprint for part in parts).encode()).hexdigest()[:32],
            replicates=replicates,
        )
    return joined


def complete(cells: Iterable[Cell], folds: int | None) -> tuple[dict[int, list[Cell]], dict[int, int]]:
    """Divide the finished runs of an arm by seed, into those whose folds are all finished and the others.

    Args:
        cells: finished runs of one setting and arm.
        folds: number of folds of the setting; None where people are not divided.

    Returns:
        {seed: its runs, by fold} and {seed: the number of finished folds, where some are missing}.
    """
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    wanted = 1 if folds is None else folds
    whole = {seed: sorted(found, key=lambda cell: cell.fold or 0) for seed, found in by_seed.items()}
    return (
        {seed: found for seed, found in whole.items() if len(found) == wanted},
        {seed: len(found) for seed, found in whole.items() if len(found) < wanted},
    )


def _reason(figures: Sequence[Figure]) -> str:
    """Why the first fold without a value has none."""
    number, figure = next((k, figure) for k, figure in enumerate(figures, 1) if figure.value is None)
    return f"fold {number}: {figure.details.get('reason', 'not measured')}"
