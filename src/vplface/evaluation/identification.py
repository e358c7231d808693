"""Identification: who is this? A probe is compared with a gallery of known people, among any number of distractors.

Closed set, rank k: the share of mates that fewer than k rivals come before. A **mate** of a probe is a gallery picture
of the same person, a **rival** anything else that it is compared with. Two ways of counting:

- ``"best"``: a probe counts once, by its most similar mate, against all other people of the gallery and the distractors
  (TinyFace, IJB, people's own lists);
- ``"each"``: every pair of a probe and a mate counts, against the distractors alone, as though that mate were the
  only other picture in the gallery (MegaFace).

Open set, TPIR at FPIR: the threshold is such that at most that share of the probes without a mate have any similarity
at or above it. The rate is the share of the probes with a mate whose mate comes first and reaches the threshold. It is
the DIR at FAR of Phillips, Grother and Micheals (Handbook of Face Recognition, 2011, chapter 21).

A rival as similar as the mate, or less similar by rounding alone, comes before it: a model that maps all faces to one
point recognises nobody.

Intervals: the people on the probes are drawn with replacement, the gallery stays. With c_a the number of times that
person a was drawn, every probe of a weighs c_a.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from vplface.errors import DataError
from vplface.evaluation.bootstrap import draws, interval, tail_length
from vplface.evaluation.protocols import WORST, far_name
from vplface.evaluation.replicates import Weighed, tar_figures, tar_replicates_of_highest
from vplface.evaluation.result import Evaluation
from vplface.evaluation.search import Engine, search, unit
from vplface.evaluation.tar_at_far import FarRule, TooFewImpostorsError, drawable, roc, tar_at_far

Mates = Literal["best", "each"]
RANKS = (1, 5, 10)
FARS = (1e-4, 1e-5, 1e-6)
FPIRS = (1e-1, 1e-2)
DEPTH = 100
"""Ranks are told apart up to this one."""

_ROUNDING = 1e-6
"""Cosines that are products of float32 differ by less where they should be equal."""


@dataclass(frozen=True, eq=False)
class Side:
    """Probes or a gallery.

    Attributes:
        embeddings: a row a picture, of any norm.
        people: who is on each, by a name that both sides use.
        names: of the pictures.
    """

    embeddings: Float[np.ndarray, "n dim"]
    people: Sequence[str]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = [len(self.embeddings), len(self.people), len(self.names)]
        if len(set(lengths)) != 1:
            raise ValueError(f"embeddings, people and names must be of one length, got {lengths}")
        if not lengths[0]:
            raise ValueError("there must be at least one picture")


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
        mates: see the module.
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
        highest, rows = self._of_all(max(DEPTH, -(-2 * count // len(self.probes))))
        while True:
            others = ~np.isin(probe, open_)
            kept = np.isfinite(highest)
            score = np.concatenate([score[others], highest[kept]])
            probe = np.concatenate([probe[others], np.repeat(open_, kept.sum(axis=1))])
            row = np.concatenate([row[others], rows[kept]])
            lowest = np.partition(score, len(score) - count)[len(score) - count] if len(score) >= count else -np.inf
            k = highest.shape[1]
            open_ = open_[(self.rivals[open_] > k) & (highest[:, -1] >= lowest)]
            if not len(open_):
                break
            highest, rows = self.highest(open_, min(4 * k, int(self.rivals[open_].max())))
        order = np.argsort(-score, kind="stable")[:count]
        return score[order], probe[order], row[order]

    def _of_all(self, k: int) -> tuple[Float32[np.ndarray, "n _"], Int64[np.ndarray, "n _"]]:
        """At least the k highest rivals of all probes; searched for once, if the largest k comes first."""
        if self._found is None or self._found[0].shape[1] < k:
            self._found = self.highest(np.arange(len(self.probes)), k)
        return self._found


def closed_set(
    rankings: Sequence[Ranking],
    people: Int64[np.ndarray, " n"],
    ranks: Sequence[int],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> tuple[dict[str, dict[str, Any]], dict[str, Float64[np.ndarray, " replicates"]]]:
    """Rank-k rates, their intervals and replicates; of several rankings (galleries) the mean.

    Args:
        rankings: of the same probes before each gallery.
        people: of the probes.
        ranks: the ranks.
        drawn: how often each person is drawn.
    """
    figures: dict[str, dict[str, Any]] = {}
    replicates = {}
    for rank in ranks:
        values, resampled, concerned = [], [], set()
        for ranking in rankings:
            hit, of = ranking.rank <= rank, people[ranking.probe]
            values.append(float(hit.mean()))
            hits, all_of = (np.bincount(each, minlength=drawn.shape[1]) for each in (of[hit], of))
            with np.errstate(invalid="ignore"):
                resampled.append((drawn @ hits) / (drawn @ all_of))
            concerned |= set(of.tolist())
        figures[f"rank-{rank}"] = {"value": float(np.mean(values)), "ci95": None}
        if len(rankings) > 1:
            figures[f"rank-{rank}"]["per_gallery"] = values
        if len(drawn):
            replicates[f"rank-{rank}"] = np.mean(resampled, axis=0)
            figures[f"rank-{rank}"]["ci95"] = _listed(interval(replicates[f"rank-{rank}"], len(concerned)))
    return figures, replicates


def open_set(
    rankings: Sequence[Ranking],
    people: Int64[np.ndarray, " n"],
    fpirs: Sequence[float],
    drawn: Int64[np.ndarray, "replicates identities"],
) -> tuple[dict[str, dict[str, Any]], dict[str, Float64[np.ndarray, " replicates"]], list[dict[str, list[float]]]]:
    """TPIR at FPIR, intervals and replicates; of several rankings (galleries) the mean; and each ranking's curve.

    A probe without a mate is its nearest rival's similarity, the highest of all: it counts once, however large the
    gallery. The arguments are those of :func:`closed_set`; rankings must be of ``mates="best"``.
    """
    scored = []
    for ranking in rankings:
        without = np.ones(len(people), bool)
        without[ranking.probe] = False
        without &= np.isfinite(ranking.rival_similarity)
        first = ranking.rank == 1
        false, true = np.flatnonzero(without), ranking.probe[first]
        false = false[np.argsort(-ranking.rival_similarity[false], kind="stable")]
        order = np.argsort(-ranking.similarity[first], kind="stable")
        scored.append((ranking, true[order], ranking.similarity[first][order], false, ranking.rival_similarity[false]))
    figures: dict[str, dict[str, Any]] = {}
    replicates: dict[str, Float64[np.ndarray, " replicates"]] = {}
    resampled = []
    for ranking, true, true_score, false, false_score in scored:
        if not len(drawn) or not len(true) or not len(false):
            resampled.append(np.zeros((len(fpirs), len(drawn))))
            continue
        all_mated = np.bincount(people[ranking.probe], minlength=drawn.shape[1])
        found = np.bincount(people[true], minlength=drawn.shape[1])
        weight = (drawn @ np.bincount(people[false], minlength=drawn.shape[1])).astype(np.float64)
        rate = tar_replicates_of_highest(
            Weighed(true_score, _twice(people[true])),
            Weighed(false_score, _twice(people[false])),
            weight,
            fpirs,
            "strict",
            drawn,
        )
        with np.errstate(invalid="ignore"):  # of those that come first → of all with a mate
            resampled.append(np.nan_to_num(rate) * (drawn @ found) / np.where(weight > 0, drawn @ all_mated, np.nan))
    for number, fpir in enumerate(fpirs):
        metric = f"tpir@fpir={far_name(fpir)}"
        figure: dict[str, Any] = {"value": None, "ci95": None}
        figures[metric] = figure
        points = []
        try:
            for ranking, _, true_score, _, false_score in scored:
                points.append(_open_point(true_score, false_score, len(ranking.probe), fpir))
        except TooFewImpostorsError:
            fewest = min(len(false) for *_, false, _ in scored)
            figure["reason"] = (
                f"FPIR {fpir:g} needs at least {int(np.ceil(1 / fpir)):,} probes without a mate, there are {fewest:,}; "
                "ask for a higher FPIR or give more"
            )
            continue
        figure["value"] = float(np.mean([tpir for tpir, _, _ in points]))
        for key, values in (("threshold", [p[1] for p in points]), ("actual_fpir", [p[2] for p in points])):
            figure[key] = values if len(points) > 1 else values[0]
        if len(points) > 1:
            figure["per_gallery"] = [tpir for tpir, _, _ in points]
        if len(drawn):
            replicates[metric] = np.mean([each[number] for each in resampled], axis=0)
            concerned = set(np.concatenate([people[ranking.probe] for ranking in rankings]).tolist())
            figure["ci95"] = _listed(interval(replicates[metric], len(concerned)))
    curves = []
    for ranking, true, true_score, false, false_score in scored:
        if len(true) and len(false):
            fpir_points, rate_points = drawable(*roc(true_score, false_score)[:2])
            share = len(true) / len(ranking.probe)
            curves.append({"fpir": fpir_points.tolist(), "tpir": (rate_points * share).tolist()})
    return figures, replicates, curves


def evaluate_identification(
    probes: Side,
    gallery: Side,
    distractors: Float[np.ndarray, "k dim"] | None = None,
    *,
    name: str = "identification",
    mates: Mates = "best",
    ranks: Sequence[int] = RANKS,
    fars: Sequence[float] = FARS,
    fpirs: Sequence[float] = FPIRS,
    far_rule: FarRule = "strict",
    engine: Engine = "exact",
    bootstrap: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Rank-k, TPIR at FPIR where some probes have no mate, and TAR at FAR over all comparisons with mates and rivals.

    Args:
        probes: who are they?
        gallery: people that are known. If it is the very object given as ``probes``, a picture is not compared with
            itself.
        distractors: embeddings of pictures of nobody among the probes, in any number.
        name: of the evaluation.
        mates: see the module. ``"each"`` has no open set.
        ranks: the ranks, up to 100.
        fars: false accept rates. The highest similarities are kept for them, so a high one costs memory.
        fpirs: false positive identification rates, below 1.
        far_rule: of TAR at FAR.
        engine: what searches.
        bootstrap: resamples of the people on the probes; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: embeddings that are zero, not finite or of different lengths, no probe with a mate, or
            ``mates="each"`` without distractors.
        ValueError: a rank beyond 1..100, or a rate beyond its bounds.
    """
    if not all(1 <= rank <= DEPTH for rank in ranks):
        raise ValueError(f"ranks lie in 1..{DEPTH}, got {list(ranks)}")
    if not all(0 < fpir < 1 for fpir in fpirs):
        raise ValueError(f"a false positive identification rate lies in (0, 1), got {list(fpirs)}")
    if mates == "each" and (distractors is None or not len(distractors)):
        raise DataError(f"{name}: every mate is ranked among the distractors, and there are none; give some")
    dims = {each.shape[1] for each in (probes.embeddings, gallery.embeddings, distractors) if each is not None}
    if len(dims) > 1:
        raise DataError(f"{name}: probes, gallery and distractors have embeddings of different lengths: {sorted(dims)}")
    known = {person: number for number, person in enumerate(sorted(set(probes.people)))}
    people = np.array([known[person] for person in probes.people], np.int64)
    gallery_people = np.array([known.get(person, -2) for person in gallery.people], np.int64)
    compared = Comparison(
        unit(probes.embeddings, "probes"),
        people,
        gallery.embeddings,
        gallery_people,
        distractors,
        mates=mates,
        engine=engine,
        same_pictures=gallery is probes,
    )
    if not len(compared.probe):
        raise DataError(
            f"{name}: no probe has a mate in the gallery; people are matched by name, the probes' look like "
            f"{probes.people[0]!r}, the gallery's like {gallery.people[0]!r}"
        )
    drawn = drawn_people(len(known), bootstrap, seed)
    verified, resampled, curve, nearest = _verification(compared, people, fars, far_rule, drawn)
    ranking = compared.rank(DEPTH)
    figures, replicates = closed_set([ranking], people, ranks, drawn)
    curves: dict[str, Mapping[str, list[float]]] = {
        "cmc": {"rank": list(range(1, DEPTH + 1)), "rate": ranking.cmc().tolist()}
    }
    mated = len(np.unique(compared.probe))
    if mates == "best" and mated < len(people):
        open_figures, open_replicates, open_curves = open_set([ranking], people, fpirs, drawn)
        figures, replicates = figures | open_figures, replicates | open_replicates
        if open_curves:
            curves["dir"] = open_curves[0]
    if curve is not None:
        curves["roc"] = curve

    asked = "\n".join(
        [f"{bootstrap}\t{seed}\t{mates}\t{0 if distractors is None else len(distractors)}"]
        + [
            f"{picture}\t{person}"
            for side in (probes, gallery)
            for picture, person in zip(side.names, side.people, strict=True)
        ]
    )
    return Evaluation(
        name=name,
        protocol={
            "kind": "identification",
            "mates": mates,
            "probes": len(people),
            "mated_probes": mated,
            "gallery": len(gallery_people),
            "distractors": 0 if distractors is None else len(distractors),
            "identities": len(known),
            "genuine": len(compared.probe),
            "impostors": int(compared.rivals.sum()),
            "ties": "a rival as similar as the mate comes before it",
            "detected": "the mate comes first and its similarity >= threshold",
            "accept": "similarity >= threshold",
            "far_rule": far_rule,
            "search": engine,
            "bootstrap": bootstrap,
            "seed": seed,
        },
        metrics=figures | verified,
        curves=curves,
        worst={
            "gallery_misses": gallery_misses(ranking, probes.names, gallery.names),
            "impostor": [
                {"left": probes.names[probe], "right": _named(gallery.names, row), "similarity": float(score)}
                for score, probe, row in _each_once(nearest)
            ],
        },
        fingerprint=hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:32],
        replicates=replicates | resampled,
    )


def drawn_people(identities: int, replicates: int, seed: int) -> Int64[np.ndarray, "replicates identities"]:
    """All draws of :func:`vplface.evaluation.bootstrap.draws` at once."""
    return np.array(list(draws(identities, replicates, seed)), np.int64).reshape(replicates, identities)


def gallery_misses(ranking: Ranking, probes: Sequence[str], gallery: Sequence[str]) -> list[Mapping[str, Any]]:
    """The probes whose mate comes behind a rival, by how far: each once, with the rival that was found instead."""
    missed = np.flatnonzero(ranking.rank > 1)
    behind = ranking.rival_similarity[ranking.probe[missed]] - ranking.similarity[missed]
    chosen: dict[int, Mapping[str, Any]] = {}
    for position in missed[np.argsort(-behind, kind="stable")].tolist():
        if len(chosen) == WORST:
            break
        probe, rank = int(ranking.probe[position]), int(ranking.rank[position])
        miss = {
            "probe": probes[probe],
            "found": _named(gallery, int(ranking.rival[probe])),
            "mate": _named(gallery, int(ranking.mate[position])),
            "similarity": float(ranking.rival_similarity[probe]),
            "mate_rank": rank if rank <= ranking.depth else None,
        }
        chosen.setdefault(probe, miss)
    return list(chosen.values())


def _named(gallery: Sequence[str], row: int) -> str:
    return gallery[row] if row < len(gallery) else f"distractor {row - len(gallery)}"


def _verification(
    compared: Comparison,
    people: Int64[np.ndarray, " n"],
    fars: Sequence[float],
    far_rule: FarRule,
    drawn: Int64[np.ndarray, "replicates identities"],
) -> tuple[
    dict[str, dict[str, Any]],
    dict[str, Float64[np.ndarray, " replicates"]],
    dict[str, list[float]] | None,
    Iterator[tuple[float, int, int]],
]:
    """TAR at FAR over all comparisons: figures, replicates, the curve, the impostors from the most similar on."""
    total = int(compared.rivals.sum())
    needed = [tail_length(far, total) for far in fars if far * total >= 1]
    impostor, of, row = compared.impostors(min(total, max([WORST * DEPTH, *needed])))
    order = np.argsort(-compared.similarity, kind="stable")
    genuine, genuine_of = compared.similarity[order], people[compared.probe[order]]
    figures, replicates = tar_figures(
        Weighed(genuine, _twice(genuine_of)),
        Weighed(impostor, _twice(people[of])),
        total,
        drawn @ np.bincount(people, compared.rivals, minlength=drawn.shape[1]),
        fars,
        far_rule,
        drawn,
    )
    curve = None
    if len(impostor):
        far_points, tar_points = drawable(*roc(genuine, impostor, total)[:2])
        curve = {"far": far_points.tolist(), "tar": tar_points.tolist()}
    return figures, replicates, curve, zip(impostor.tolist(), of.tolist(), row.tolist(), strict=True)


def _open_point(
    true: Float32[np.ndarray, " t"], false: Float32[np.ndarray, " f"], mated: int, fpir: float
) -> tuple[float, float, float]:
    """TPIR, threshold and the FPIR that is reached."""
    point = tar_at_far(true if len(true) else np.array([-2.0]), false, fpir)
    return point.tar * len(true) / mated, point.threshold, point.actual_far


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


def _each_once(found: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """The first comparisons, each probe and each row once."""
    chosen: list[tuple[float, int, int]] = []
    probes: set[int] = set()
    rows: set[int] = set()
    for score, probe, row in found:
        if len(chosen) == WORST:
            break
        if probe not in probes and row not in rows:
            probes.add(probe)
            rows.add(row)
            chosen.append((score, probe, row))
    return chosen


def _twice(people: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, "k 2"]:
    return np.stack([people, people], axis=1)


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)
