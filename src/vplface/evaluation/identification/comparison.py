"""Probes compared with a gallery: their mates, their nearest rivals and the rank of each mate."""

from __future__ import annotations

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


@dataclass(frozen=True, eq=False)
class Ranking:
    """What became of the probes.

    Attributes:
        probe: of each hit or miss that counts, the probe.
        mate: and the row of its mate in the gallery.
        similarity: of the two.
        rank: 1 + the number of rivals before the mate; :attr:`depth` + 1 where there are that many or more.
        rival: of every probe, its nearest rival; −1 where it has none.
        rival_similarity: of the two; −inf where there is none.
        depth: the ranks that are told apart.
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
    """Probes before a gallery; searches for the highest rivals.

    Args:
        probes: embeddings of unit norm.
        people: of the probes, as numbers.
        gallery: embeddings of any norm.
        gallery_people: of the gallery.
        distractors: embeddings of any norm, of nobody among the probes.
        mates: see :data:`Mates`.
        engine: see :data:`vplface.evaluation.search.Engine`.
        same_pictures: whether the gallery is the probes themselves, whose pictures are not compared with themselves.
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
        some = [] if distractors is None else [distractors]
        self._galleries = [gallery, *some] if mates == "best" else some
        self._first = 0 if mates == "best" else len(gallery)
        # What the search will find that is no rival, of each probe.
        self._mates_of = (
            np.bincount(self.probe, minlength=len(probes)) if mates == "best" else np.zeros(len(probes), int)
        )
        self._people, self._gallery_people = people, gallery_people
        self._same_pictures = same_pictures and mates == "best"
        self.rivals = sum(map(len, self._galleries)) - self._mates_of - self._same_pictures
        """How many rivals each probe has."""
        self._found: tuple[Float32[np.ndarray, "n _"], Int64[np.ndarray, "n _"]] | None = None

    def highest(
        self, chosen: Int64[np.ndarray, " c"], k: int
    ) -> tuple[Float32[np.ndarray, "c k"], Int64[np.ndarray, "c k"]]:
        """The k highest rivals of some probes, from highest to lowest, and their rows; −inf and −1 beyond the last.

        Rows number the gallery and then the distractors.
        """
        total = sum(map(len, self._galleries))
        strangers = int(self._mates_of[chosen].max(initial=0)) + self._same_pictures
        if not total or not len(chosen):
            return np.full((len(chosen), k), -np.inf, np.float32), np.full((len(chosen), k), -1, np.int64)
        score, found = search(self.probes[chosen], self._galleries, min(k + strangers, total), self.engine)
        row = found.astype(np.int64) + self._first
        if strangers:
            in_gallery = row < len(self._gallery_people)
            person = np.where(in_gallery, self._gallery_people[np.where(in_gallery, row, 0)], -1)
            no_rival = person == self._people[chosen][:, None]
            order = np.argsort(no_rival, axis=1, kind="stable")
            score, row, no_rival = (np.take_along_axis(each, order, 1) for each in (score, row, no_rival))
            score[no_rival], row[no_rival] = -np.inf, -1
        lacking = max(0, k - score.shape[1])
        score = np.pad(score[:, :k], ((0, 0), (0, lacking)), constant_values=-np.inf)
        return score, np.pad(row[:, :k], ((0, 0), (0, lacking)), constant_values=-1)

    def rank(self, depth: int) -> Ranking:
        """Where the mates come, told apart up to ``depth``."""
        score, row = (found[:, :depth] for found in self._of_all(depth))
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

        Each probe is searched for a few; those of which all are among the highest are searched for more.
        """
        score, probe, row = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
        if not count:
            return score, probe, row
        open_ = np.arange(len(self.probes))
        found, rows = self._of_all(max(DEPTH, -(-2 * count // len(self.probes))))
        while True:
            others = ~np.isin(probe, open_)
            kept = np.isfinite(found)
            score = np.concatenate([score[others], found[kept]])
            probe = np.concatenate([probe[others], np.repeat(open_, kept.sum(axis=1))])
            row = np.concatenate([row[others], rows[kept]])
            lowest = np.partition(score, len(score) - count)[len(score) - count] if len(score) >= count else -np.inf
            k = found.shape[1]
            open_ = open_[(self.rivals[open_] > k) & (found[:, -1] >= lowest)]
            if not len(open_):
                break
            found, rows = self.highest(open_, min(4 * k, int(self.rivals[open_].max())))
        order = highest(score, count)
        return score[order], probe[order], row[order]

    def _of_all(self, k: int) -> tuple[Float32[np.ndarray, "n _"], Int64[np.ndarray, "n _"]]:
        """At least the k highest rivals of all probes; searched for once, if the largest k comes first."""
        if self._found is None or self._found[0].shape[1] < k:
            self._found = self.highest(np.arange(len(self.probes)), k)
        return self._found


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
