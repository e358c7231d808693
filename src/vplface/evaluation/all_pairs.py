"""Scores of all pairs of a labelled set, n(n−1)/2 of them, in blocks.

All genuine scores are kept, and as many of the highest impostor scores as the operating points need. The lower ones,
which affect only the shape of the curve, are counted in a histogram.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import roc
from vplface.evaluation.topk import HighestPairs
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
            where there is none; empty where it was not computed.
    """

    scores: Scores
    genuine: Int64[np.ndarray, " bins"]
    impostor: Int64[np.ndarray, " bins"]
    edges: Float[np.ndarray, " bins+1"]
    nearest: Float32[np.ndarray, "2 n"] = field(default_factory=lambda: np.zeros((2, 0), np.float32))

    def roc(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """False and true accept rates by falling threshold: exact in the kept scores, below them by the histograms."""
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
    ends = np.cumsum(sizes)[person]  # where the person of each row ends

    pairs = _Accumulator(person, keep)
    with progress("comparing all pairs", n) as advance:
        for start in range(0, n, _ROWS):
            stop = min(start + _ROWS, n)
            # People are contiguous: from the end of the last row's person on, all columns are impostors of all rows.
            mixed = int(ends[stop - 1])
            pairs.add_square(start, x[start:stop] @ x[start:mixed].T)
            for column in range(mixed, n, _COLUMNS):
                pairs.add_impostors(start, column, x[start:stop] @ x[column : column + _COLUMNS].T)
            advance(stop - start)

    genuine_scores, genuine_pairs = (np.concatenate(parts) for parts in zip(*pairs.genuine, strict=True))
    falling = np.argsort(-genuine_scores, kind="stable")
    impostor_scores, impostor_pairs = pairs.highest_impostors.result()
    scores = Scores(
        genuine_scores[falling],
        order[genuine_pairs[falling]],
        impostor_scores,
        order[impostor_pairs],
        n * (n - 1) // 2 - len(genuine_scores),
        identity,
    )
    nearest = np.empty_like(pairs.nearest)
    nearest[:, order] = pairs.nearest
    return AllPairs(
        scores, pairs.genuine_histogram, pairs.impostor_histogram, np.linspace(-1.0, 1.0, BINS + 1), nearest
    )


class _Accumulator:
    """Scores, histograms and nearest similarities, collected block by block.

    Args:
        person: of each row, contiguous.
        keep: how many of the highest impostor scores to keep.
    """

    def __init__(self, person: Int64[np.ndarray, " n"], keep: int) -> None:
        self.genuine = [(np.zeros(0, np.float32), np.zeros((0, 2), np.int32))]
        self.highest_impostors = HighestPairs(keep)
        self.genuine_histogram, self.impostor_histogram = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self.nearest = np.full((2, len(person)), -np.inf, np.float32)
        self._person = person

    def add_square(self, start: int, square: Float[np.ndarray, "r c"]) -> None:
        """Take the similarities of rows from ``start`` on with themselves and with rows after them."""
        own, other = self.nearest
        height, width = square.shape
        person = self._person[start : start + width]
        same = person[:height, None] == person
        rows, columns = np.nonzero(np.arange(width) > np.arange(height)[:, None])
        values, is_genuine = square[rows, columns], same[rows, columns]
        pairs = np.stack([rows + start, columns + start], axis=1).astype(np.int32)
        self.genuine.append((values[is_genuine], pairs[is_genuine]))
        self.genuine_histogram += _histogram(values[is_genuine])
        self.impostor_histogram += _histogram(values[~is_genuine])
        self.highest_impostors.add(values[~is_genuine], pairs[~is_genuine])
        _raise(other, np.where(same, -np.inf, square), start, start)
        np.fill_diagonal(same, False)
        _raise(own, np.where(same, square, -np.inf), start, start)

    def add_impostors(self, row: int, column: int, slab: Float[np.ndarray, "r c"]) -> None:
        """Take the similarities of rows and columns that are all of different people."""
        self.impostor_histogram += _histogram(slab)
        _raise(self.nearest[1], slab, row, column)
        rows, columns = np.nonzero(slab > self.highest_impostors.lowest)
        pairs = np.stack([rows + row, columns + column], axis=1).astype(np.int32)
        self.highest_impostors.add(slab[rows, columns], pairs)


def _raise(nearest: Float32[np.ndarray, " n"], block: Float[np.ndarray, "r c"], row: int, column: int) -> None:
    """Raise the highest similarity so far of the rows and of the columns of a block to those of the block."""
    for start, values in ((row, block.max(axis=1)), (column, block.max(axis=0))):
        part = nearest[start : start + len(values)]
        np.maximum(part, values.astype(np.float32), out=part)


def _histogram(scores: Float32[np.ndarray, ...]) -> Int64[np.ndarray, " bins"]:
    positions = scores.ravel() * np.float32(BINS / 2)
    positions += np.float32(BINS / 2)
    counts = np.bincount(positions.astype(np.intp), minlength=BINS + 1).astype(np.int64)
    counts[BINS - 1] += counts[BINS]  # 1, and values that rounding puts slightly above it
    return counts[:BINS]
