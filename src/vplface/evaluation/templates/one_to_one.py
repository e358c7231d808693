"""One to one: TAR at FAR on pairs of templates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from vplface.compiled_function import compiled
from vplface.data.ijb import TemplatePairs
from vplface.errors import DataError
from vplface.evaluation.all_pairs import BINS, AllPairs
from vplface.evaluation.bootstrap import all_draws
from vplface.evaluation.result import Evaluation
from vplface.evaluation.roc_replicates import WeightedScores, tail_length
from vplface.evaluation.scores import Scores
from vplface.evaluation.tar_at_far import FarRule, drawable
from vplface.evaluation.tar_figures import tar_figures
from vplface.evaluation.templates.pooling import Flags, Templates
from vplface.evaluation.topk import highest
from vplface.evaluation.worst import first_without_repetition
from vplface.progress import progress

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

_BLOCK_ELEMENTS = 1 << 23
_KEEP_AT_LEAST = 200_000
_HISTOGRAM_BINS = 100


def evaluate_template_pairs(
    templates: Templates,
    pairs: TemplatePairs,
    flags: Flags,
    *,
    fars: Sequence[float] = FARS,
    far_rule: FarRule = "strict",
    bootstrap: int = 100,
    seed: int = 0,
) -> Evaluation:
    """TAR at FAR on pairs of templates.

    Args:
        templates: pooled.
        pairs: the pairs to compare.
        flags: how they were pooled; for the protocol.
        fars: false accept rates.
        far_rule: see :data:`vplface.evaluation.tar_at_far.FarRule`.
        bootstrap: resamples of the people for the intervals; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: templates without faces, or pairs all of one kind.
    """
    same = pairs.same
    if same.all() or not same.any():
        raise DataError(f"1:1: all {len(same):,} pairs show {'one person' if same.all() else 'two people'}; need both")
    left, right = templates.rows(pairs.left), templates.rows(pairs.right)
    similarity = cosines_of_pairs(templates.features, left, right)
    person, people = _people(len(templates.number), left, right, same)
    compared = _scores(similarity, same, left, right, person, fars)
    scores = compared.scores
    drawn = all_draws(people, bootstrap, seed)
    figures = tar_figures(
        WeightedScores(scores.genuine, scores.genuine_pairs, person),
        WeightedScores(scores.impostor, scores.impostor_pairs, person),
        scores.impostors,
        _impostor_weight(person[left[~same]], person[right[~same]], np.ascontiguousarray(drawn.T, np.float64)),
        fars,
        far_rule,
        drawn,
    )
    question = hashlib.sha256(f"{bootstrap}\t{seed}\t{flags}".encode())
    for part in (pairs.left, pairs.right, pairs.same):
        question.update(part.tobytes())
    contradicted = int((person[left[~same]] == person[right[~same]]).sum())
    return Evaluation(
        name="1:1",
        protocol={
            "kind": "template pairs",
            **flags.protocol(),
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
        metrics=figures.of,
        curves=_curves(compared),
        worst={
            "genuine": _worst(templates, scores.genuine[::-1], scores.genuine_pairs[::-1]),
            "impostor": _worst(templates, scores.impostor, scores.impostor_pairs),
        },
        fingerprint=question.hexdigest()[:32],
        replicates=figures.replicates,
    )


def cosines_of_pairs(
    features: Float32[np.ndarray, "t dim"], left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"]
) -> Float32[np.ndarray, " p"]:
    """Cosines of many pairs of few rows of unit norm: blocks of products, from which those of the pairs are taken.

    A block costs less than its pairs one by one if the pairs are more than about a twentieth of all combinations of the
    rows.
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


def _people(
    templates: int, left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"], same: Bool[np.ndarray, " p"]
) -> tuple[Int64[np.ndarray, " t"], int]:
    """The person on each template, −1 if unused, and the number of people: genuine pairs connect templates of one.

    People are numbered by the root that a plain union-find gives them. The numbers decide which people a seed draws, so
    another algorithm would make new results incomparable with stored ones.
    """
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


def _curves(compared: AllPairs) -> dict[str, dict[str, list[float]]]:
    """The ROC and the histograms of the scores."""
    far, tar = drawable(*compared.roc()[:2])
    genuine, impostor = (
        counts.reshape(_HISTOGRAM_BINS, -1).sum(axis=1).tolist() for counts in (compared.genuine, compared.impostor)
    )
    edges = compared.edges[:: BINS // _HISTOGRAM_BINS].tolist()
    return {
        "roc": {"far": far.tolist(), "tar": tar.tolist()},
        "histogram": {"edges": edges, "genuine": genuine, "impostor": impostor},
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
