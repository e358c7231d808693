"""IJB-B and IJB-C: a person as a template, a set of media, and how templates are compared one to one and one to many.

Pooling. With x_f the embedding of face f, m(f) its medium and s_f its weight, a template is

    t = Σ_media mean_{f: m(f) = medium} s_f·x_f,      then t / ‖t‖

so that a video counts as much as a still, however many frames of it there are. Three flags decide what is summed:

| flag | 1 | 0 |
|---|---|---|
| N | x_f keeps its norm | x_f is brought to unit norm first |
| D | s_f is the detector's score | s_f is 1 |
| F | x_f is f(x) + f(mirrored x) | x_f is f(x) |

The same model differs by half a percent between them: figures of different flags must not be compared.

One to one: TAR at FAR on the set's pairs of templates. One to many: every probe before each of two galleries. A probe
has a mate in one of them and none in the other, and all figures are means of the two.

Intervals: people are drawn with replacement. One to one, a pair of templates of a and b weighs c_a·c_b and one of a
alone c_a, and people are those whom the genuine pairs connect. One to many, a probe weighs its subject's count and the
galleries stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from vplface.compiled_function import compiled
from vplface.data.ijb import Faces, TemplateList, TemplatePairs
from vplface.errors import DataError
from vplface.evaluation.all_pairs import BINS, AllPairs
from vplface.evaluation.bootstrap import all_draws
from vplface.evaluation.identification import (
    Comparison,
    closed_set,
    gallery_misses,
    open_set,
)
from vplface.evaluation.replicates import tar_figures
from vplface.evaluation.result import Evaluation
from vplface.evaluation.roc_replicates import WeightedScores, tail_length
from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import FarRule, drawable
from vplface.evaluation.topk import highest
from vplface.evaluation.unit import require_direction
from vplface.evaluation.worst import first_without_repetition
from vplface.progress import progress

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FPIRS = (1e-1, 1e-2)
RANKS = (1, 5, 10)

_DEPTH = 50
_FACES = 8192
_BLOCK_ELEMENTS = 1 << 23
_KEEP_AT_LEAST = 200_000
_HISTOGRAM_BINS = 100


@dataclass(frozen=True)
class Flags:
    """How faces are weighed in a template; see the module."""

    norm: bool = True
    detector: bool = True
    flip: bool = True

    @classmethod
    def parse(cls, text: str) -> Flags:
        """``"N1D1F1"`` and so on; raises ValueError."""
        found = re.fullmatch("N([01])D([01])F([01])", text.strip().upper())
        if found is None:
            raise ValueError(f"flags are written N1D1F1, each with 0 or 1, got {text!r}")
        return cls(*(digit == "1" for digit in found.groups()))

    def __str__(self) -> str:
        return f"N{self.norm:d}D{self.detector:d}F{self.flip:d}"


@dataclass(frozen=True, eq=False)
class Templates:
    """Pooled faces.

    Attributes:
        number: of each template, ascending.
        features: of unit norm.
        picture: the name of the first picture of each, to show.
        equal_norms: whether all embeddings were of one norm, so that flag N made no difference.
    """

    number: Int64[np.ndarray, " t"]
    features: Float32[np.ndarray, "t dim"]
    picture: Sequence[str]
    equal_norms: bool

    def rows(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of templates by their numbers.

        Raises:
            DataError: a template without faces; it is named.
        """
        rows = np.minimum(np.searchsorted(self.number, numbers), len(self.number) - 1)
        if len(missing := np.flatnonzero(self.number[rows] != numbers)):
            lacking = np.unique(numbers[missing])
            raise DataError(
                f"{len(lacking)} templates that are asked about have no faces, {lacking[0]} for one; are the files of "
                "one set and one version?"
            )
        return rows


def pool(
    embeddings: Float[np.ndarray, "pictures dim"],
    faces: Faces,
    *,
    norm: bool,
    scores: Float64[np.ndarray, " pictures"] | None = None,
) -> Templates:
    """Pool the faces of each template, as the module says.

    Args:
        embeddings: a row a picture of ``faces``, with the norm that the network gives it.
        faces: which template and medium each is of.
        norm: flag N.
        scores: flag D: the detector's score of each picture; None weighs all alike.

    Raises:
        DataError: an embedding or a template that is zero or not finite; it is named.
        ValueError: other than a row or score a picture.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(faces.pictures):
        raise ValueError(f"embeddings must be [{len(faces.pictures)}, dim], a row a picture, got {embeddings.shape}")
    if scores is not None and len(scores) != len(faces.pictures):
        raise ValueError(f"{len(scores)} scores given for {len(faces.pictures)} pictures")
    norms = _norms(embeddings, faces.pictures)
    weight = np.ones(len(norms)) if scores is None else scores
    if not norm:
        weight = weight / norms

    order = np.lexsort((faces.medium, faces.template))
    template, medium, picture = faces.template[order], faces.medium[order], faces.picture[order]
    new_template = np.append(True, np.diff(template) != 0)
    new_medium = np.flatnonzero(new_template | np.append(True, np.diff(medium) != 0))
    frames = np.diff(new_medium, append=len(order))
    # The mean within a medium and the sum over media are one sum over faces, each divided by its medium's frames.
    share = weight[picture] / np.repeat(frames, frames)
    starts = np.flatnonzero(new_template)
    ends = np.append(starts[1:], len(order))
    features = np.empty((len(starts), embeddings.shape[1]), np.float32)
    low = 0
    with progress("pooling templates", len(order)) as advance:
        while low < len(starts):
            high = max(low + 1, int(np.searchsorted(ends, starts[low] + _FACES, side="right")))
            some = slice(starts[low], ends[high - 1])
            weighed = embeddings[picture[some]].astype(np.float64)
            weighed *= share[some, None]
            sums = np.add.reduceat(weighed, starts[low:high] - starts[low])
            length = np.linalg.norm(sums, axis=1, keepdims=True)
            if not (np.isfinite(length) & (length > 0)).all():
                wrong = int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])
                raise DataError(
                    f"template {template[starts[low + wrong]]} is zero or not finite once its faces are pooled; are "
                    "the detector's scores positive?"
                )
            features[low:high] = sums / length
            advance(some.stop - some.start)
            low = high
    shown = [faces.pictures[index] for index in picture[starts]]
    return Templates(template[starts], features, shown, bool(np.ptp(norms) <= 1e-4 * norms.max()))


def evaluate_template_pairs(
    templates: Templates,
    pairs: TemplatePairs,
    flags: Flags,
    *,
    name: str = "1:1",
    fars: Sequence[float] = FARS,
    far_rule: FarRule = "strict",
    bootstrap: int = 100,
    seed: int = 0,
) -> Evaluation:
    """One to one: TAR at FAR on pairs of templates.

    Args:
        templates: pooled.
        pairs: the question.
        flags: how they were pooled; for the protocol.
        name: of the evaluation.
        fars: false accept rates.
        far_rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        bootstrap: resamples of the people for the intervals; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: templates without faces, or pairs all of one kind.
    """
    same = pairs.same
    if same.all() or not same.any():
        raise DataError(
            f"{name}: all {len(same):,} pairs show {'one person' if same.all() else 'two people'}; need both"
        )
    left, right = templates.rows(pairs.left), templates.rows(pairs.right)
    similarity = cosines_of_pairs(templates.features, left, right)
    person, people = _connected(len(templates.number), left, right, same)
    compared = _scores(similarity, same, left, right, person, fars)
    scores = compared.scores
    drawn = all_draws(people, bootstrap, seed)
    by_person = np.ascontiguousarray(drawn.T, np.float64)
    weight = _impostor_weight(person[left[~same]], person[right[~same]], by_person)
    figures, replicates = tar_figures(
        WeightedScores(scores.genuine, scores.genuine_pairs, person),
        WeightedScores(scores.impostor, scores.impostor_pairs, person),
        scores.impostors,
        weight,
        fars,
        far_rule,
        drawn,
    )
    far, tar = drawable(*compared.roc()[:2])
    merged = [
        counts.reshape(_HISTOGRAM_BINS, -1).sum(axis=1).tolist() for counts in (compared.genuine, compared.impostor)
    ]
    asked = hashlib.sha256(f"{bootstrap}\t{seed}\t{flags}".encode())
    for part in (pairs.left, pairs.right, pairs.same):
        asked.update(part.tobytes())
    contradicted = int((person[left[~same]] == person[right[~same]]).sum())
    return Evaluation(
        name=name,
        protocol={
            "kind": "template pairs",
            **_pooled(flags),
            "pairs": len(same),
            "genuine": len(scores.genuine),
            "impostors": scores.impostors,
            "templates": len(_used(len(templates.number), left, right)[0]),
            "identities": people,
            **({"contradicted_by_genuine_pairs": contradicted} if contradicted else {}),
            "accept": "similarity >= threshold",
            "far_rule": far_rule,
            "bootstrap": bootstrap,
            "seed": seed,
        },
        metrics=figures,
        curves={
            "roc": {"far": far.tolist(), "tar": tar.tolist()},
            "histogram": {
                "edges": compared.edges[:: BINS // _HISTOGRAM_BINS].tolist(),
                "genuine": merged[0],
                "impostor": merged[1],
            },
        },
        worst={
            "genuine": _worst(templates, scores.genuine[::-1], scores.genuine_pairs[::-1]),
            "impostor": _worst(templates, scores.impostor, scores.impostor_pairs),
        },
        fingerprint=asked.hexdigest()[:32],
        replicates=replicates,
    )


def evaluate_one_to_many(
    templates: Templates,
    galleries: Mapping[str, TemplateList],
    probes: TemplateList,
    flags: Flags,
    *,
    name: str = "1:N",
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIRS,
    bootstrap: int = 100,
    seed: int = 0,
) -> Evaluation:
    """One to many: every probe before each gallery by itself; figures are means over the galleries.

    Args:
        templates: pooled.
        galleries: by name. Put together they would be another, harder closed set and leave no open one.
        probes: those of all galleries.
        flags: how the templates were pooled; for the protocol.
        name: of the evaluation.
        ranks: up to 50.
        fpirs: false positive identification rates, below 1.
        bootstrap: resamples of the subjects of the probes for the intervals; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: templates without faces, or a gallery without a mate of any probe.
        ValueError: a rank or a rate beyond its bounds.
    """
    if not all(1 <= rank <= _DEPTH for rank in ranks):
        raise ValueError(f"ranks lie in 1..{_DEPTH}, got {list(ranks)}")
    if not all(0 < fpir < 1 for fpir in fpirs):
        raise ValueError(f"a false positive identification rate lies in (0, 1), got {list(fpirs)}")
    subjects, people = np.unique(probes.subject, return_inverse=True)
    probe_rows = templates.rows(probes.template)
    found, rows_of, rankings = {}, [], []
    for gallery_name, gallery in galleries.items():
        rows = templates.rows(gallery.template)
        rows_of.append(rows)
        at = np.minimum(np.searchsorted(subjects, gallery.subject), len(subjects) - 1)
        gallery_people = np.where(subjects[at] == gallery.subject, at, -2)
        compared = Comparison(templates.features[probe_rows], people, templates.features[rows], gallery_people)
        if not len(compared.probe):
            raise DataError(f"{name}: no probe has a mate in gallery {gallery_name}; do the subjects' numbers agree?")
        rankings.append(compared.rank(_DEPTH))
        mated = len(np.unique(compared.probe))
        found[gallery_name] = {"templates": len(rows), "mated": mated, "non_mated": len(people) - mated}
    drawn = all_draws(len(subjects), bootstrap, seed)
    figures, replicates = closed_set(rankings, people, ranks, drawn)
    open_figures, open_replicates, open_curves = open_set(rankings, people, fpirs, drawn)
    shown = [templates.picture[row] for row in probe_rows]
    misses = [
        miss
        for ranking, rows in zip(rankings, rows_of, strict=True)
        for miss in gallery_misses(ranking, shown, [templates.picture[row] for row in rows])
    ]
    asked = hashlib.sha256(f"{bootstrap}\t{seed}\t{flags}".encode())
    for part in (probes, *galleries.values()):
        asked.update(part.template.tobytes() + part.subject.tobytes())
    curves = {
        "cmc": {"rank": list(range(1, _DEPTH + 1)), "rate": np.mean([r.cmc() for r in rankings], axis=0).tolist()}
    }
    if len(open_curves) == len(rankings):
        curves["dir"] = _mean_curve(open_curves)
    return Evaluation(
        name=name,
        protocol={
            "kind": "template identification",
            **_pooled(flags),
            "probes": len(people),
            "galleries": found,
            "identities": len(subjects),
            "of_galleries": "mean",
            "ties": "a rival as similar as the mate comes before it",
            "detected": "the mate comes first and its similarity >= threshold",
            "bootstrap": bootstrap,
            "seed": seed,
        },
        metrics=figures | open_figures,
        curves=curves,
        worst={"gallery_misses": misses},
        fingerprint=asked.hexdigest()[:32],
        replicates=replicates | open_replicates,
    )


def cosines_of_pairs(
    features: Float32[np.ndarray, "t dim"], left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"]
) -> Float32[np.ndarray, " p"]:
    """Cosines of many pairs of few rows of unit norm: blocks of products, from which those of the pairs are taken.

    A block costs less than its pairs would one by one, as long as the pairs are more than a twentieth or so of all
    combinations of the rows.
    """
    order = np.argsort(left, kind="stable")
    used, sizes = _used(len(features), left)
    starts = np.cumsum(sizes) - sizes
    columns, _ = _used(len(features), right)
    column = np.searchsorted(columns, np.arange(len(features))).astype(np.int32)[right]
    others = features[columns].T
    rows = max(1, _BLOCK_ELEMENTS // len(columns))
    similarity = np.empty(len(left), np.float32)
    with progress("comparing templates", len(left)) as advance:
        for first in range(0, len(used), rows):
            some = used[first : first + rows]
            end = starts[first + rows] if first + rows < len(used) else len(left)
            pairs = order[starts[first] : end]
            block = features[some] @ others
            row = np.repeat(np.arange(len(some)), np.diff(starts[first : first + rows], append=end))
            similarity[pairs] = block[row, column[pairs]]
            advance(len(pairs))
    return np.clip(similarity, -1.0, 1.0, out=similarity)


def _used(rows: int, *sides: Int64[np.ndarray, " p"]) -> tuple[Int64[np.ndarray, " used"], Int64[np.ndarray, " used"]]:
    """The rows that occur, and how often each does."""
    counts = np.sum([np.bincount(side, minlength=rows) for side in sides], axis=0)
    used = np.flatnonzero(counts)
    return used, counts[used]


def _scores(
    similarity: Float32[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    left: Int64[np.ndarray, " p"],
    right: Int64[np.ndarray, " p"],
    person: Int64[np.ndarray, " t"],
    fars: Sequence[float],
) -> AllPairs:
    """All genuine and the highest impostor scores, and histograms of all."""
    impostors = int((~same).sum())
    keep = min(impostors, max([_KEEP_AT_LEAST, *(tail_length(far, impostors) for far in fars)]))
    of = {}
    for kind, which, count in (("genuine", same, int(same.sum())), ("impostor", ~same, keep)):
        chosen = np.flatnonzero(which)
        chosen = chosen[highest(similarity[chosen], count)]
        of[kind] = similarity[chosen], np.stack([left[chosen], right[chosen]], axis=1)
    edges = np.linspace(-1.0, 1.0, BINS + 1)
    genuine, impostor = (np.histogram(similarity[which], BINS, (-1.0, 1.0))[0] for which in (same, ~same))
    return AllPairs(Scores(*of["genuine"], *of["impostor"], impostors, person), genuine, impostor, edges)


def _connected(
    templates: int, left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"], same: Bool[np.ndarray, " p"]
) -> tuple[Int64[np.ndarray, " t"], int]:
    """The person on each template, and how many people there are: one wherever genuine pairs connect; −1 if unused."""
    parent = list(range(templates))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in zip(left[same].tolist(), right[same].tolist(), strict=True):
        parent[root(one)] = root(other)
    used, _ = _used(templates, left, right)
    roots, number = np.unique([root(row) for row in used.tolist()], return_inverse=True)
    person = np.full(templates, -1, np.int64)
    person[used] = number
    return person, len(roots)


@compiled(nogil=True)
def _impostor_weight(
    left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"], drawn: Float64[np.ndarray, "people replicates"]
) -> Float64[np.ndarray, " replicates"]:
    """The total weight of the impostor pairs in each draw."""
    total = np.zeros(drawn.shape[1])
    for pair in range(len(left)):
        a, b = left[pair], right[pair]
        if a == b:
            for number in range(drawn.shape[1]):
                total[number] += drawn[a, number]
        else:
            for number in range(drawn.shape[1]):
                total[number] += drawn[a, number] * drawn[b, number]
    return total


def _norms(embeddings: Float[np.ndarray, "n dim"], names: Sequence[str]) -> Float64[np.ndarray, " n"]:
    norms = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _FACES):
        block = embeddings[start : start + _FACES].astype(np.float64)
        norms[start : start + _FACES] = np.sqrt(np.einsum("nd,nd->n", block, block))
    require_direction(norms, lambda row: names[row])
    return norms


def _mean_curve(curves: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Staircases that rise at their points, averaged at every point of any of them."""
    fpir = np.unique(np.concatenate([curve["fpir"] for curve in curves]))
    rates = [np.array(curve["tpir"])[np.searchsorted(curve["fpir"], fpir, side="right") - 1] for curve in curves]
    return {"fpir": fpir.tolist(), "tpir": np.mean(rates, axis=0).tolist()}


def _pooled(flags: Flags) -> dict[str, Any]:
    return {
        "flags": str(flags),
        "pooling": "mean within a medium, sum over media, unit norm",
        "norm": "the network's" if flags.norm else "unit",
        "detector_score": flags.detector,
        "flip": "sum" if flags.flip else "none",
    }


def _worst(
    templates: Templates, similarity: Float32[np.ndarray, " p"], pairs: Int64[np.ndarray, "p 2"]
) -> list[Mapping[str, Any]]:
    """The first pairs, each template once; shown by the first picture of each."""
    return [
        {
            "left": templates.picture[left],
            "right": templates.picture[right],
            "similarity": score,
            "left_template": int(templates.number[left]),
            "right_template": int(templates.number[right]),
        }
        for score, left, right in first_without_repetition(similarity, pairs)
    ]
