"""Probes compared with a gallery: their mates, their nearest rivals and the rank of each mate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from vplface.evaluation.search import Engine, search
from vplface.evaluation.topk import highest
from vplface.evaluation.unit import unit

Mates = Literal["best", "each"]
"""``"best"``: a probe counts once, by its most similar mate. ``"each"``: every pair of a probe and a mate counts."""

DEPTH = 100
"""Ranks above this one are not distinguished."""

_ROUNDING = 1e-6
"""Cosines that are products of float32 differ by less where they should be equal."""


def require_in_range(ranks: Sequence[int], depth: int, fpirs: Sequence[float]) -> None:
    """Raise ValueError for a rank beyond 1..``depth`` or a false positive identification rate beyond (0, 1)."""
    if not all(1 <= rank <= depth for rank in ranks):
        raise ValueError(f"ranks lie in 1..{depth}, got {list(ranks)}")
    if not all(0 < fpir < 1 for fpir in fpirs):
        raise ValueError(f"a false positive identification rate lies in (0, 1), got {list(fpirs)}")


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranks of mates, and the nearest rival of every probe.

    Attributes:
        probe: the probe of each pair of a probe and a mate that counts.
        mate: the row of the mate in the gallery.
        similarity: of the two.
        rank: 1 + the number of rivals before the mate; :attr:`depth` + 1 where there are that many or more.
        rival: the row of the nearest rival of every probe; −1 where it has none.
        rival_similarity: of the two; −inf where there is none.
        depth: the highest rank that is distinguished.
    """

    probe: Int64[np.ndarray, " u"]
    mate: Int64[np.ndarray, " u"]
    similarity: Float32[np.ndarray, " u"]
    rank: Int64[np.ndarray, " u"]
    rival: Int64[np.ndarray, " n"]
    rival_similarity: Float32[np.ndarray, " n"]
    depth: int

    def cmc(self) -> Float64[np.ndarray, " depth"]:
        """The rate at each rank from 1."""
        return np.cumsum(np.bincount(self.rank, minlength=self.depth + 2)[1 : self.depth + 1]) / len(self.rank)


class Comparison:
    """Probes, a gallery and distractors, compared: the similarity of all mates, and searches for the highest rivals.

    Args:
        probes: embeddings of unit norm.
        people: the number of the person on each probe.
        gallery: embeddings of any norm.
        gallery_people: the number of the person on each picture of the gallery; negative for nobody among the probes.
        distractors: embeddings of any norm, of nobody among the probes.
        mates: see :data:`Mates`.
        engine: see :data:`vplface.evaluation.search.Engine`.
        same_pictures: whether the gallery is the probes themselves, whose pictures are not compared with themselves.

    Attributes:
        probe: the probe of each pair of a probe and a mate.
        mate: the row of the mate in the gallery.
        similarity: of the two.
        rivals: the number of rivals of each probe.
    """

    def __init__(
        self,
        probes: Float32[np.ndarray, "n dim"],
        people: Int[np.ndarray, " n"],
        gallery: Float[np.ndarray, "m dim"],
        gallery_people: Int[np.ndarray, " m"],
        distractors: Float[np.ndarray, "k dim"] | None = None,
        *,
        mates: Mates = "best",
        engine: Engine = "exact",
        same_pictures: bool = False,
    ) -> None:
        if mates not in get_args(Mates):
            raise ValueError(f"mates must be one of {', '.join(get_args(Mates))}, got {mates!r}")
        self.probes, self.mates, self.engine = probes, mates, engine
        self.probe, self.mate = _mates(people, gallery_people)
        if same_pictures:
            others = self.probe != self.mate
            self.probe, self.mate = self.probe[others], self.mate[others]
        self.similarity = _cosines(probes, self.probe, gallery, self.mate)
        self._people, self._gallery_people = people, gallery_people
        self._searched = [] if distractors is None else [distractors]
        self._first_row = len(gallery)
        self._not_rivals = np.zeros(
            len(probes), np.int64
        )  # how many of the rows searched are mates or the probe itself
        if mates == "best":
            self._searched.insert(0, gallery)
            self._first_row = 0
            self._not_rivals = np.bincount(self.probe, minlength=len(probes)) + same_pictures
        self._rows = sum(map(len, self._searched))
        self.rivals = self._rows - self._not_rivals
        self._highest_of_all: tuple[Float32[np.ndarray, "n _"], Int64[np.ndarray, "n _"]] | None = None

    def highest(
        self, chosen: Int64[np.ndarray, " c"], k: int
    ) -> tuple[Float32[np.ndarray, "c k"], Int64[np.ndarray, "c k"]]:
        """The k highest rivals of some probes, from highest to lowest, and their rows; −inf and −1 beyond the last.

        Rows number the gallery and then the distractors.
        """
        if not self._rows or not len(chosen):
            return np.full((len(chosen), k), -np.inf, np.float32), np.full((len(chosen), k), -1, np.int64)
        no_rivals = int(self._not_rivals[chosen].max())
        score, row = search(self.probes[chosen], self._searched, min(k + no_rivals, self._rows), self.engine)
        row = row.astype(np.int64) + self._first_row
        if no_rivals:
            in_gallery = row < len(self._gallery_people)
            person = np.where(in_gallery, self._gallery_people[np.where(in_gallery, row, 0)], -1)
            is_mate = person == self._people[chosen][:, None]
            order = np.argsort(is_mate, axis=1, kind="stable")  # rivals first, in their order
            score, row, is_mate = (np.take_along_axis(each, order, 1) for each in (score, row, is_mate))
            score[is_mate], row[is_mate] = -np.inf, -1
        missing = max(0, k - score.shape[1])
        score = np.pad(score[:, :k], ((0, 0), (0, missing)), constant_values=-np.inf)
        return score, np.pad(row[:, :k], ((0, 0), (0, missing)), constant_values=-1)

    def rank(self, depth: int) -> Ranking:
        """The ranks of the mates, distinguished up to ``depth``."""
        score, row = (found[:, :depth] for found in self._at_least(depth))
        probe, mate, similarity = self.probe, self.mate, self.similarity
        if self.mates == "best":
            order = np.lexsort((mate, -similarity, probe))
            order = order[np.diff(probe[order], prepend=-1) > 0]
            probe, mate, similarity = probe[order], mate[order], similarity[order]
        before = np.empty(len(probe), np.int64)
        for start in range(0, len(probe), 65_536):
            some = slice(start, start + 65_536)
            before[some] = (score[probe[some]] >= similarity[some, None] - np.float32(_ROUNDING)).sum(axis=1)
        return Ranking(probe, mate, similarity, before + 1, row[:, 0], score[:, 0], depth)

    def impostors(
        self, count: int
    ) -> tuple[Float32[np.ndarray, " count"], Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """The ``count`` highest comparisons of any probe with any of its rivals: similarity, probe, row.

        The first search finds a few rivals of each probe. A probe whose rivals found so far are all among the highest
        is searched again for more.
        """
        score, probe, row = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
        if not count:
            return score, probe, row
        unfinished = np.arange(len(self.probes))
        found, rows = self._at_least(max(DEPTH, -(-2 * count // len(self.probes))))
        while True:
            others = ~np.isin(probe, unfinished)
            kept = np.isfinite(found)
            score = np.concatenate([score[others], found[kept]])
            probe = np.concatenate([probe[others], np.repeat(unfinished, kept.sum(axis=1))])
            row = np.concatenate([row[others], rows[kept]])
            lowest = np.partition(score, len(score) - count)[len(score) - count] if len(score) >= count else -np.inf
            k = found.shape[1]
            unfinished = unfinished[(self.rivals[unfinished] > k) & (found[:, -1] >= lowest)]
            if not len(unfinished):
                break
            found, rows = self.highest(unfinished, min(4 * k, int(self.rivals[unfinished].max())))
        order = highest(score, count)
        return score[order], probe[order], row[order]

    def _at_least(self, k: int) -> tuple[Float32[np.ndarray, "n _"], Int64[np.ndarray, "n _"]]:
        """At least the k highest rivals of all probes; there is only one search if the largest k is asked for first."""
        if self._highest_of_all is None or self._highest_of_all[0].shape[1] < k:
            self._highest_of_all = self.highest(np.arange(len(self.probes)), k)
        return self._highest_of_all


def _mates(
    people: Int[np.ndarray, " n"], gallery_people: Int[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """All pairs of a probe and a gallery row of one person, by probe and row."""
    order = np.argsort(gallery_people, kind="stable")
    low, high = (np.searchsorted(gallery_people[order], people, side=side) for side in ("left", "right"))
    counts = high - low
    probe = np.repeat(np.arange(len(people)), counts)
    within = np.arange(len(probe)) - np.repeat(np.cumsum(counts) - counts, counts)
    return probe, order[np.repeat(low, counts) + within]


def _cosines(
    probes: Float32[np.ndarray, "n dim"],
    probe: Int64[np.ndarray, " pairs"],
    gallery: Float[np.ndarray, "m dim"],
    row: Int64[np.ndarray, " pairs"],
) -> Float32[np.ndarray, " pairs"]:
    used, at = np.unique(row, return_inverse=True)
    rows = unit(gallery[used], "gallery")
    result = np.empty(len(probe), np.float32)
    for start in range(0, len(probe), 8192):
        some = slice(start, start + 8192)
        result[some] = np.einsum("pd,pd->p", probes[probe[some]], rows[at[some]])
    return result
