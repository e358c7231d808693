"""Verification accuracy: two pictures show one person if their similarity reaches a threshold chosen on other pairs.

In this package a pair is accepted if its cosine similarity is >= the threshold. Two ways of choosing one:

- ``"exact"``: every split of the scores is tried, thresholds lie midway between neighbouring distinct scores;
- ``"insightface"``: the squared distances 0, .01, ..., 3.99 are tried and a pair is accepted below them; of equally
  good ones the smallest distance is taken. For comparison with figures published under that rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

AccuracyRule = Literal["exact", "insightface"]

# |x - y|² = 2 - 2 cos for unit vectors; the next number up turns "distance < t" into "similarity >= threshold".
_GRID = np.nextafter(1.0 - np.arange(0.0, 4.0, 0.01) / 2.0, np.inf)


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy by cross-validation.

    Attributes:
        mean: over folds.
        std: over folds, of the population (divided by the number of folds), as such figures are usually given.
        per_fold: accuracy on each fold, at a threshold chosen on all others.
        thresholds: these thresholds, as cosine similarities. Folds are in the order of their numbers.
    """

    mean: float
    std: float
    per_fold: Float[np.ndarray, " folds"]
    thresholds: Float[np.ndarray, " folds"]


def kfold_accuracy(
    similarity: Float[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    fold: Int[np.ndarray, " p"],
    protocol: AccuracyRule = "exact",
) -> FoldAccuracy:
    """Accuracy on each fold at the threshold that is best on the other folds (LFW View 2, ten folds).

    Raises:
        ValueError: fewer than two folds, arrays of different lengths, or similarities that are not finite.
    """
    _check(similarity, same)
    if len(fold) != len(same):
        raise ValueError(f"{len(fold)} folds given for {len(same)} pairs")
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError("cross-validation needs at least two folds")
    thresholds = np.array([choose_threshold(similarity[fold != f], same[fold != f], protocol) for f in folds])
    per_fold = np.array(
        [accuracy_at(t, similarity[fold == f], same[fold == f]) for f, t in zip(folds, thresholds, strict=True)]
    )
    return FoldAccuracy(float(per_fold.mean()), float(per_fold.std()), per_fold, thresholds)


def choose_threshold(
    similarity: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"], protocol: AccuracyRule = "exact"
) -> float:
    """The cosine threshold of highest accuracy on these pairs, by either rule of this module."""
    if protocol not in get_args(AccuracyRule):
        raise ValueError(f"protocol must be one of {', '.join(get_args(AccuracyRule))}, got {protocol!r}")
    if protocol == "exact":
        return best_threshold(similarity, same)
    _check(similarity, same)
    genuine, impostor = np.sort(similarity[same]), np.sort(similarity[~same])
    rejected_genuine = np.searchsorted(genuine, _GRID, side="left")
    rejected_impostor = np.searchsorted(impostor, _GRID, side="left")
    return float(_GRID[np.argmax(rejected_impostor - rejected_genuine)])


def best_threshold(similarity: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> float:
    """The threshold of highest accuracy on these pairs, midway between two neighbouring distinct scores.

    Of several equally good gaps the widest is taken, of equally wide ones the lowest. Only if no gap is as good is
    everything accepted (the threshold is then the lowest score) or else rejected (just above the highest).

    Raises:
        ValueError: no pairs, arrays of different lengths, or similarities that are not finite.
    """
    _check(similarity, same)
    scores, position = np.unique(similarity, return_inverse=True)
    genuine = np.bincount(position[same], minlength=len(scores))
    impostor = np.bincount(position[~same], minlength=len(scores))
    # correct[j]: right answers if scores[j] and all above it are accepted.
    correct = np.concatenate([[0], np.cumsum(impostor - genuine)]) + genuine.sum()
    best = np.flatnonzero(correct == correct.max())
    gaps = best[(best > 0) & (best < len(scores))]
    if len(gaps):
        gap = gaps[np.argmax(scores[gaps] - scores[gaps - 1])]
        return between(float(scores[gap - 1]), float(scores[gap]))
    return float(scores[0]) if best[0] == 0 else float(np.nextafter(scores[-1], np.inf))


def accuracy_at(threshold: float, similarity: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> float:
    """The share of pairs classified correctly when those with similarity >= threshold are accepted."""
    return float(np.mean((similarity >= threshold) == same))


def between(low: float, high: float) -> float:
    """The middle of two scores low < high, or ``high`` if no number lies between: it accepts high and rejects low."""
    middle = low + (high - low) / 2
    return middle if middle > low else high


def _check(similarity: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> None:
    if len(similarity) != len(same) or not len(same):
        raise ValueError(f"need as many similarities as answers and at least one, got {len(similarity)}, {len(same)}")
    if same.dtype != bool:
        raise ValueError(f"same must be boolean, got {same.dtype}")
    if not np.isfinite(similarity).all():
        raise ValueError(f"{int((~np.isfinite(similarity)).sum())} similarities are not finite")
