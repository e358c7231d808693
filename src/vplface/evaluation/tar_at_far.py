"""True accept rate at a false accept rate, and the curve of all such pairs of rates.

A pair is accepted if its similarity is >= the threshold. A threshold cannot separate a genuine pair from an impostor
pair of the same score, so both are accepted or both rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from vplface.errors import DataError
from vplface.evaluation.verification import between

FarRule = Literal["strict", "nearest"]
"""``"strict"``: the actual false accept rate never exceeds the requested one. ``"nearest"``: it is the nearest
that a threshold can give, above or below (the higher of two equally near)."""


class TooFewImpostorsError(DataError):
    """The false accept rate is so low that not one of the impostor pairs may be accepted."""


@dataclass(frozen=True)
class TarAtFar:
    """An operating point.

    Attributes:
        tar: share of genuine pairs accepted.
        threshold: midway between the highest similarity that is rejected and the next above it.
        actual_far: share of impostor pairs accepted.
        genuine: number of genuine pairs.
        impostors: number of impostor pairs.
    """

    tar: float
    threshold: float
    actual_far: float
    genuine: int
    impostors: int


def tar_at_far(
    genuine: Float[np.ndarray, " g"],
    impostor: Float[np.ndarray, " k"],
    far: float,
    rule: FarRule = "strict",
    impostors: int | None = None,
) -> TarAtFar:
    """The largest true accept rate whose actual false accept rate does not exceed ``far``.

    Args:
        genuine: similarities of pairs of one person.
        impostor: similarities of pairs of two people; all, or the highest ones.
        far: the false accept rate, in 0..1.
        rule: see :data:`FarRule`.
        impostors: how many impostor pairs there are, if ``impostor`` holds only the highest.

    Raises:
        TooFewImpostorsError: fewer than 1/far impostor pairs.
        ValueError: no genuine pairs, similarities that are not finite, ``far`` outside (0, 1], or fewer of the
            highest impostor scores than ``far`` asks for.
    """
    genuine, impostor = descending(genuine), descending(impostor)
    total = len(impostor) if impostors is None else impostors
    if not len(genuine):
        raise ValueError("no genuine pairs")
    if rule not in get_args(FarRule):
        raise ValueError(f"rule must be one of {', '.join(get_args(FarRule))}, got {rule!r}")
    allowed = _allowed(far, total)
    if allowed == 0:
        raise TooFewImpostorsError(
            f"FAR {far:g} needs at least {int(np.ceil(1 / far)):,} impostor pairs, there are {total:,}; "
            "ask for a higher FAR or give more pairs"
        )
    accepted = _above(impostor, allowed)
    if rule == "nearest" and accepted < len(impostor):
        with_the_tied = _down_to(impostor, accepted)
        all_known = with_the_tied < len(impostor) or len(impostor) == total
        if all_known and with_the_tied / total - far <= far - accepted / total:
            accepted = with_the_tied
    if len(impostor) <= accepted < total:
        raise ValueError(f"the {len(impostor)} highest of {total} impostor scores do not reach FAR {far:g}")
    if accepted == total:
        lowest = min(float(genuine[-1]), float(impostor[-1]))
        return TarAtFar(1.0, lowest, 1.0, len(genuine), total)
    rejected = float(impostor[accepted])
    right = int(np.searchsorted(-genuine, -rejected, side="left"))
    above = [float(scores[count - 1]) for scores, count in ((genuine, right), (impostor, accepted)) if count]
    threshold = between(rejected, min(above)) if above else float(np.nextafter(rejected, np.inf))
    return TarAtFar(right / len(genuine), threshold, accepted / total, len(genuine), total)


def roc(
    genuine: Float[np.ndarray, " g"], impostor: Float[np.ndarray, " k"], impostors: int | None = None
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """False and true accept rate at every threshold that makes a difference, exactly.

    Args:
        genuine: similarities of pairs of one person.
        impostor: similarities of pairs of two people; all, or the highest ones.
        impostors: how many impostor pairs there are, if ``impostor`` holds only the highest. The curve then ends
            above the lowest of them.

    Returns:
        far, tar and thresholds, by falling threshold; the first threshold is infinite and accepts nothing.

    Raises:
        ValueError: no genuine or no impostor pairs, or similarities that are not finite.
    """
    genuine, impostor = descending(genuine), descending(impostor)
    if not len(genuine) or not len(impostor):
        raise ValueError("a ROC needs genuine and impostor pairs")
    total = len(impostor) if impostors is None else impostors
    thresholds = np.unique(np.concatenate([genuine, impostor]))[::-1]
    if len(impostor) < total:
        thresholds = thresholds[thresholds > impostor[-1]]
    tar = np.searchsorted(-genuine, -thresholds, side="right") / len(genuine)
    far = np.searchsorted(-impostor, -thresholds, side="right") / total
    return np.append(0.0, far), np.append(0.0, tar), np.append(np.inf, thresholds)


def drawable(
    far: Float[np.ndarray, " t"], tar: Float[np.ndarray, " t"], points: int = 300
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """At most ``points`` + 1 points of a ROC, evenly spread over log FAR; each is a point of the exact curve.

    Of points with one FAR the one of highest TAR is kept, so the curve is a staircase that rises at its points.
    """
    lowest = far[far > 0].min(initial=1.0)
    grid = np.concatenate([[0.0], np.geomspace(lowest, 1.0, points)])
    chosen = np.unique(np.searchsorted(far, grid, side="right") - 1)
    return far[chosen], tar[chosen]


def descending(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The scores from highest to lowest; refuses those that are not finite."""
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} similarities are not finite")
    if (scores[:-1] >= scores[1:]).all():
        return scores
    return np.sort(scores)[::-1]


def _allowed(far: float, total: int) -> int:
    """The largest k with k / total <= far, as these are computed."""
    if not 0 < far <= 1:
        raise ValueError(f"a false accept rate lies in (0, 1], got {far}")
    if total == 0:
        return 0
    near = int(far * total)
    return max(k for k in (near - 1, near, near + 1) if k <= 0 or k / total <= far)


def _above(descending_scores: Float[np.ndarray, " k"], count: int) -> int:
    """How many of the ``count`` highest scores are higher than the one that follows these."""
    if count >= len(descending_scores):
        return count
    return int(np.searchsorted(-descending_scores, -descending_scores[count], side="left"))


def _down_to(descending_scores: Float[np.ndarray, " k"], index: int) -> int:
    """How many scores are as high as the one at ``index``, or higher."""
    return int(np.searchsorted(-descending_scores, -descending_scores[index], side="right"))
