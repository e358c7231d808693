"""Error-versus-discard curves: what is left of the false non-matches if the poorest pictures are discarded.

Grother and Tabassi, "Performance of Biometric Quality Measures", IEEE TPAMI 2007. A picture is discarded if its quality
lies below q, and a genuine pair with either of its pictures. The threshold of the comparison stays that of all pairs.
The curve gives, for each q, the FNMR of the pairs that are left over the share of pictures that is discarded. Pictures
of the same quality are discarded together: at a share r the curve shows the largest discard that does not exceed r.
It is a step function that depends on the order of the qualities alone.

The partial area under the curve up to a share R, divided by R, is the mean FNMR while 0 to R are discarded (Schlett,
Rathgeb, Tapia, Busch, "Considerations on the Evaluation of Biometric Quality Assessment Algorithms", IEEE TBIOM 2023).
For a score that says nothing about errors its expectation is the FNMR of all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vplface.evaluation.bootstrap import PairWeights

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class DiscardCurve:
    """The steps of a curve.

    Attributes:
        quality: least quality of a picture that is kept, rising; at the first, every picture is.
        discarded: share of the pictures whose quality lies below it.
        fnmr: of the genuine pairs of two pictures that are kept; NaN where none is left.
    """

    quality: Float64[np.ndarray, " k"]
    discarded: Float64[np.ndarray, " k"]
    fnmr: Float64[np.ndarray, " k"]

    def places(self, shares: Float[np.ndarray, " s"]) -> Int64[np.ndarray, " s"]:
        """The last steps at which no more than these shares are discarded."""
        places: Int64[np.ndarray, " s"] = np.searchsorted(self.discarded, shares + _ROUNDING, side="right") - 1
        return places

    def at(self, shares: Float[np.ndarray, " s"]) -> Float64[np.ndarray, " s"]:
        """The FNMR where at most these shares are discarded."""
        fnmr: Float64[np.ndarray, " s"] = self.fnmr[self.places(shares)]
        return fnmr

    def mean_fnmr(self, share: float) -> float:
        """The partial area up to a share, divided by it; NaN if no genuine pair is left somewhere below it."""
        edges = np.minimum(np.append(self.discarded, 1.0), share)
        widths = np.diff(edges)
        on = widths > 0
        return float(widths[on] @ self.fnmr[on] / share)


class Discarding:
    """Pictures with a quality and genuine pairs that are matched or not, ready for many draws of people.

    Args:
        quality: of each picture, higher is better; of pictures that are not compared anything.
        identity: the person on each, 0, 1, …; −1 for a picture that is not compared.
        pairs: the two pictures of each genuine pair.
        missed: whether the threshold rejects it.

    Raises:
        ValueError: a picture that is compared has no finite quality.
    """

    def __init__(
        self,
        quality: Float[np.ndarray, " n"],
        identity: Int[np.ndarray, " n"],
        pairs: Int[np.ndarray, "g 2"],
        missed: Bool[np.ndarray, " g"],
    ) -> None:
        used = np.flatnonzero(identity >= 0)
        if not np.isfinite(quality[used]).all():
            raise ValueError("every picture that is compared needs a finite quality")
        self._levels, rank_of_used = np.unique(quality[used].astype(np.float64), return_inverse=True)
        rank = np.zeros(len(quality), np.int64)
        rank[used] = rank_of_used
        self._rank, self._person = rank_of_used, identity[used]
        self._pair_rank = rank[pairs].min(axis=1)
        self._person_of_pair = identity[pairs[:, 0]]
        self._missed = missed.astype(np.float64)
        self._weights = PairWeights(identity[pairs])

    def people_left(self, places: Int64[np.ndarray, " s"]) -> Int64[np.ndarray, " s"]:
        """How many people have genuine pairs that are left at some steps of the curve of the people themselves."""
        best = np.full(len(np.bincount(self._person)), -1, np.int64)
        np.maximum.at(best, self._person_of_pair, self._pair_rank)
        left: Int64[np.ndarray, " s"] = (best[:, None] >= places).sum(axis=0)
        return left

    def curve(self, counts: Int64[np.ndarray, " identities"]) -> DiscardCurve:
        """The curve of a draw of people, by how often each is drawn; ones give that of the people themselves."""
        k = len(self._levels)
        pictures = np.bincount(self._rank, counts[self._person], k)
        below = np.cumsum(pictures) - pictures
        weights = self._weights.weights(counts).astype(np.float64)
        left, missed = (
            np.cumsum(np.bincount(self._pair_rank, each, k)[::-1])[::-1] for each in (weights, weights * self._missed)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return DiscardCurve(self._levels, below / pictures.sum(), missed / left)
