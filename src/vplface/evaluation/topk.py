"""The highest of many values, exactly: of an array, of a stream, and of each row of a stream.

Of equal values the earlier one comes first, and is kept where not all fit.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64

from vplface.compiled_function import compiled

_SPARE = 1 << 20
"""A stream is pruned when it holds this many values more than it keeps, or half as many more if that is larger."""


def highest(values: Float[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """Positions of the k highest values, or of all if there are fewer, from the highest value to the lowest."""
    chosen = _positions_of_highest(values, k)
    return chosen[np.argsort(-values[chosen], kind="stable")]


class HighestPairs:
    """The highest scores of a stream of pairs, with their pairs.

    Memory grows with the number that is kept, not with the length of the stream.

    Args:
        keep: how many to keep.

    Attributes:
        lowest: only a higher score than this can still be among the highest.
    """

    def __init__(self, keep: int) -> None:
        self.lowest = np.float32(-np.inf)
        self._keep = keep
        self._parts = [(np.zeros(0, np.float32), np.zeros((0, 2), np.int32))]
        self._held = 0

    def add(self, scores: Float32[np.ndarray, " p"], pairs: Int[np.ndarray, "p 2"]) -> None:
        """Take more scores, in the order of the stream."""
        self._parts.append((scores, pairs))
        self._held += len(scores)
        if self._held > self._keep + max(self._keep // 2, _SPARE):
            self._prune()

    def result(self) -> tuple[Float32[np.ndarray, " k"], Int[np.ndarray, "k 2"]]:
        """The scores from highest to lowest, and their pairs."""
        scores, pairs = self._joined()
        order = highest(scores, self._keep)
        return scores[order], pairs[order]

    def _joined(self) -> tuple[Float32[np.ndarray, " p"], Int[np.ndarray, "p 2"]]:
        scores, pairs = zip(*self._parts, strict=True)
        return np.concatenate(scores), np.concatenate(pairs)

    def _prune(self) -> None:
        scores, pairs = self._joined()
        chosen = _positions_of_highest(scores, self._keep)
        scores, pairs = scores[chosen], pairs[chosen]
        self.lowest = scores.min(initial=np.inf)
        self._parts, self._held = [(scores, pairs)], len(scores)


@compiled(nogil=True)
def keep_highest_of_rows(
    block: Float32[np.ndarray, "n b"],
    first: int,
    score: Float32[np.ndarray, "n k"],
    index: Int32[np.ndarray, "n k"],
) -> None:
    """Take the next columns of a matrix into the k highest values of each of its rows, in place.

    A row of ``score`` and ``index`` is a heap whose lowest value comes first. It starts as −inf and −1, and the
    caller sorts it in the end.

    Args:
        block: the columns, none of which is left of one that was taken before.
        first: the number of the first of them.
        score: the k highest values.
        index: the column of each.
    """
    k = score.shape[1]
    for i in range(block.shape[0]):
        lowest = score[i, 0]
        for j in range(block.shape[1]):
            value = block[i, j]
            if value > lowest:
                column, place = first + j, 0
                while 2 * place + 1 < k:
                    child = 2 * place + 1
                    if child + 1 < k:
                        a, b = score[i, child], score[i, child + 1]
                        child += b < a or (b == a and index[i, child + 1] > index[i, child])
                    # `value` is of the last column so far: of equals it belongs nearest to the top.
                    if score[i, child] >= value:
                        break
                    score[i, place], index[i, place] = score[i, child], index[i, child]
                    place = child
                score[i, place], index[i, place] = value, column
                lowest = score[i, 0]


def _positions_of_highest(values: Float[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """Positions of the k highest values, ascending."""
    if k >= len(values):
        return np.arange(len(values))
    if k == 0:
        return np.zeros(0, np.int64)
    lowest = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > lowest)
    # Keep only as many of the values tied at the cut as fit: a model that maps everything to one point ties them all.
    tied = np.flatnonzero(values == lowest)[: k - len(above)]
    return np.sort(np.concatenate([above, tied]))
