"""All pairs of a labelled set: n(n−1)/2 of them, in blocks, without ever holding them all.

Kept are all genuine scores, the highest impostor scores exactly (as many as the operating points need) and a
histogram of the rest: the lower ones decide nothing but the shape of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import roc
from vplface.progress import progress

BINS = 2000
"""Bins of the histograms, over −1..1."""

_ROWS, _COLUMNS = 512, 2048


@dataclass(frozen=True, eq=False)
class AllPairs:
    """Scores of all pairs of a set.

    Attributes:
        scores: all genuine and the highest impostor scores.
        genuine: histogram of the genuine similarities.
        impostor: histogram of all impostor similarities.
        edges: of the bins.
        nearest: highest similarity of each picture to another of its identity, and to one of other identities, −inf
            where there is none; empty where that was not asked.
    """

    scores: Scores
    genuine: Int64[np.ndarray, " bins"]
    impostor: Int64[np.ndarray, " bins"]
    edges: Float[np.ndarray, " bins+1"]
    nearest: Float32[np.ndarray, "2 n"] = field(default_factory=lambda: np.zeros((2, 0), np.float32))

    def roc(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """False and true accept rates and thresholds, falling: exact in the kept scores, below them those of bins."""
        far, tar, thresholds = roc(self.scores.genuine, self.scores.impostor, self.scores.impostors)
        if self.scores.complete:
            return far, tar, thresholds
        below = np.flatnonzero(self.edges[:-1] < thresholds[-1])[::-1]
        coarse_far = np.cumsum(self.impostor[::-1])[::-1][below] / self.scores.impostors
        coarse_tar = np.cumsum(self.genuine[::-1])[::-1][below] / len(self.scores.genuine)
        parts = ((far, coarse_far), (tar, coarse_tar), (thresholds, self.edges[below]))
        joined_far, joined_tar, joined_thresholds = map(np.concatenate, parts)
        return joined_far, joined_tar, joined_thresholds


def score_all_pairs(embeddings: Float[np.ndarray, "n dim"], labels: Int[np.ndarray, " n"], keep: int) -> AllPairs:
    """Compare every picture with every other, once.

    Similarities are float32 products. Time grows with n²: 4,000 pictures take a second, 100,000 some minutes. Memory
    grows with ``keep``, by about 40 bytes.

    Args:
        embeddings: rows of unit norm.
        labels: identity of each.
        keep: how many of the highest impostor scores to keep.
    """
    _, identity = np.unique(labels, return_inverse=True)
    order = np.argsort(identity, kind="stable").astype(np.int32)
    x, person = np.ascontiguousarray(embeddings[order], np.float32), identity[order]
    n = len(x)
    sizes = np.bincount(identity)
    genuine_total = int((sizes * (sizes - 1) // 2).sum())
    ends = np.cumsum(sizes)[person]  # where the person of each row ends

    tail = _Highest(keep)
    genuine = [(np.zeros(0, np.float32), np.zeros((0, 2), np.int32))]
    genuine_histogram, impostor_histogram = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    own, other = nearest = np.full((2, n), -np.inf, np.float32)
    with progress("comparing all pairs", n) as advance:
        for start in range(0, n, _ROWS):
            stop = min(start + _ROWS, n)
            # People are contiguous: from the end of the last row's person on, all columns are impostors of all rows.
            mixed = int(ends[stop - 1])
            square = x[start:stop] @ x[start:mixed].T
            rows, columns = np.nonzero(np.arange(start, mixed) > np.arange(start, stop)[:, None])
            values, pairs = square[rows, columns], np.stack([rows + start, columns + start], axis=1).astype(np.int32)
            is_genuine = person[pairs[:, 0]] == person[pairs[:, 1]]
            genuine.append((values[is_genuine], pairs[is_genuine]))
            genuine_histogram += _histogram(values[is_genuine])
            impostor_histogram += _histogram(values[~is_genuine])
            tail.add(values[~is_genuine], pairs[~is_genuine])
            same = person[start:stop, None] == person[start:mixed]
            _raise(other, np.where(same, -np.inf, square), start, start)
            np.fill_diagonal(same, False)
            _raise(own, np.where(same, square, -np.inf), start, start)
            for column in range(mixed, n, _COLUMNS):
                slab = x[start:stop] @ x[column : column + _COLUMNS].T
                impostor_histogram += _histogram(slab)
                _raise(other, slab, start, column)
                rows, columns = np.nonzero(slab > tail.lowest)
                pairs = np.stack([rows + start, columns + column], axis=1).astype(np.int32)
                tail.add(slab[rows, columns], pairs)
            advance(stop - start)

    genuine_scores, genuine_pairs = _sorted(
        np.concatenate([scores for scores, _ in genuine]), np.concatenate([pairs for _, pairs in genuine])
    )
    impostor_scores, impostor_pairs = tail.result()
    scores = Scores(
        genuine_scores,
        order[genuine_pairs],
        impostor_scores,
        order[impostor_pairs],
        n * (n - 1) // 2 - genuine_total,
        identity,
    )
    nearest[:, order] = nearest.copy()
    return AllPairs(scores, genuine_histogram, impostor_histogram, np.linspace(-1.0, 1.0, BINS + 1), nearest)


class _Highest:
    """The ``keep`` highest of all scores that were added."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.lowest = np.float32(-np.inf)  # only higher scores need be added
        self._parts: list[tuple[Float32[np.ndarray, " k"], Int[np.ndarray, "k 2"]]] = []
        self._held = 0

    def add(self, scores: Float32[np.ndarray, " k"], pairs: Int[np.ndarray, "k 2"]) -> None:
        self._parts.append((scores, pairs))
        self._held += len(scores)
        if self._held > self.keep + max(self.keep // 2, _ROWS * _COLUMNS):
            self._prune()

    def result(self) -> tuple[Float32[np.ndarray, " k"], Int[np.ndarray, "k 2"]]:
        self._prune()
        return _sorted(*self._joined())

    def _joined(self) -> tuple[Float32[np.ndarray, " k"], Int[np.ndarray, "k 2"]]:
        empty = (np.zeros(0, np.float32), np.zeros((0, 2), np.int32))
        scores, pairs = zip(empty, *self._parts, strict=True)
        return np.concatenate(scores), np.concatenate(pairs)

    def _prune(self) -> None:
        scores, pairs = self._joined()
        if len(scores) > self.keep:
            self.lowest = np.partition(scores, len(scores) - self.keep)[len(scores) - self.keep]
            high = np.flatnonzero(scores > self.lowest)
            # Of scores tied at the cut only as many as fit: a model that maps everything to one point ties them all.
            tied = np.flatnonzero(scores == self.lowest)[: self.keep - len(high)]
            kept = np.concatenate([high, tied])
            scores, pairs = scores[kept], pairs[kept]
        self._parts, self._held = [(scores, pairs)], len(scores)


def _sorted(
    scores: Float32[np.ndarray, " k"], pairs: Int[np.ndarray, "k 2"]
) -> tuple[Float32[np.ndarray, " k"], Int[np.ndarray, "k 2"]]:
    order = np.argsort(-scores, kind="stable")
    return scores[order], pairs[order]


def _raise(highest: Float32[np.ndarray, " n"], block: Float[np.ndarray, "r c"], row: int, column: int) -> None:
    """Take what a block of similarities says of its rows and of its columns into the highest so far."""
    for start, values in ((row, block.max(axis=1)), (column, block.max(axis=0))):
        part = highest[start : start + len(values)]
        np.maximum(part, values.astype(np.float32), out=part)


def _histogram(scores: Float32[np.ndarray, ...]) -> Int64[np.ndarray, " bins"]:
    positions = scores.ravel() * np.float32(BINS / 2)
    positions += np.float32(BINS / 2)
    counts = np.bincount(positions.astype(np.intp), minlength=BINS + 1).astype(np.int64)
    counts[BINS - 1] += counts[BINS]  # 1, and what rounding carries a little past it
    return counts[:BINS]
