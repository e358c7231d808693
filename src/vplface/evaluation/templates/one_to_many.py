"""One to many: identification of templates in each of several galleries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from vplface.data.ijb import TemplateList
from vplface.errors import DataError
from vplface.evaluation.bootstrap import all_draws
from vplface.evaluation.identification import Comparison, GalleryMiss, Ranking, closed_set, gallery_misses, open_set
from vplface.evaluation.identification.comparison import require_in_range
from vplface.evaluation.result import Evaluation
from vplface.evaluation.templates.pooling import Flags, Templates

FPIRS = (1e-1, 1e-2)
RANKS = (1, 5, 10)

_DEPTH = 50
"""Ranks above this one are not distinguished."""


def evaluate_one_to_many(
    templates: Templates,
    galleries: Mapping[str, TemplateList],
    probes: TemplateList,
    flags: Flags,
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIRS,
    bootstrap: int = 100,
    seed: int = 0,
) -> Evaluation:
    """Identification of every probe in each gallery by itself; figures are means over the galleries.

    Args:
        templates: pooled.
        galleries: by name. Merged they would be a harder closed set, without an open one.
        probes: those of all galleries.
        flags: how the templates were pooled; for the protocol.
        ranks: up to 50.
        fpirs: false positive identification rates, below 1.
        bootstrap: resamples of the subjects of the probes for the intervals; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: templates without faces, or a gallery without a mate of any probe.
        ValueError: a rank or a rate beyond its bounds.
    """
    require_in_range(ranks, _DEPTH, fpirs)
    subjects, people = np.unique(probes.subject, return_inverse=True)
    probe_rows = templates.rows(probes.template)
    rankings: list[Ranking] = []
    sizes: dict[str, dict[str, int]] = {}
    misses: list[GalleryMiss] = []
    for gallery_name, gallery in galleries.items():
        rows = templates.rows(gallery.template)
        gallery_people = _numbers(gallery.subject, subjects)
        compared = Comparison(templates.features[probe_rows], people, templates.features[rows], gallery_people)
        if not len(compared.probe):
            raise DataError(f"1:N: no probe has a mate in gallery {gallery_name}; do the subjects' numbers agree?")
        ranking = compared.rank(_DEPTH)
        rankings.append(ranking)
        misses += gallery_misses(ranking, templates.pictures_of(probe_rows), templates.pictures_of(rows))
        mated = len(np.unique(compared.probe))
        sizes[gallery_name] = {"templates": len(rows), "mated": mated, "non_mated": len(people) - mated}
    drawn = all_draws(len(subjects), bootstrap, seed)
    opened = open_set(rankings, people, fpirs, drawn)
    figures = closed_set(rankings, people, ranks, drawn) | opened.figures
    rate = np.mean([ranking.cmc() for ranking in rankings], axis=0)
    curves = {"cmc": {"rank": list(range(1, _DEPTH + 1)), "rate": rate.tolist()}}
    if len(opened.curves) == len(rankings):
        curves["dir"] = _mean_curve(opened.curves)
    return Evaluation(
        name="1:N",
        protocol={
            "kind": "template identification",
            **flags.protocol(),
            "probes": len(people),
            "galleries": sizes,
            "identities": len(subjects),
            "of_galleries": "mean",
            "ties": "a rival as similar as the mate comes before it",
            "detected": "the mate comes first and its similarity >= threshold",
            "bootstrap": bootstrap,
            "seed": seed,
        },
        metrics=figures.of,
        curves=curves,
        worst={"gallery_misses": misses},
        fingerprint=_fingerprint(f"{bootstrap}\t{seed}\t{flags}", [probes, *galleries.values()]),
        replicates=figures.replicates,
    )


def _numbers(subject: Int64[np.ndarray, " n"], subjects: Int64[np.ndarray, " s"]) -> Int64[np.ndarray, " n"]:
    """The position of each subject among the sorted subjects of the probes; −2 for one that is not there."""
    position = np.minimum(np.searchsorted(subjects, subject), len(subjects) - 1)
    return np.where(subjects[position] == subject, position, -2)


def _fingerprint(protocol: str, lists: Sequence[TemplateList]) -> str:
    """A digest that identifies evaluations of the same templates with the same draws."""
    question = hashlib.sha256(protocol.encode())
    for templates in lists:
        question.update(templates.template.tobytes() + templates.subject.tobytes())
    return question.hexdigest()[:32]


def _mean_curve(curves: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Staircases that rise at their points, averaged at every point of any of them."""
    fpir = np.unique(np.concatenate([curve["fpir"] for curve in curves]))
    rates = [np.array(curve["tpir"])[np.searchsorted(curve["fpir"], fpir, side="right") - 1] for curve in curves]
    return {"fpir": fpir.tolist(), "tpir": np.mean(rates, axis=0).tolist()}
