"""The evaluation of a model by identification, from embeddings with names to figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from vplface.errors import DataError
from vplface.evaluation.bootstrap import all_draws
from vplface.evaluation.identification.closed_set import closed_set, gallery_misses, row_name
from vplface.evaluation.identification.comparison import DEPTH, Comparison, require_in_range
from vplface.evaluation.identification.open_set import open_set
from vplface.evaluation.identification.options import IdentificationOptions
from vplface.evaluation.identification.verification import verify_comparisons
from vplface.evaluation.result import Evaluation
from vplface.evaluation.unit import unit
from vplface.evaluation.worst import WrongPair


@dataclass(frozen=True, eq=False)
class LabelledEmbeddings:
    """Embeddings of pictures, with their people: probes or a gallery.

    Attributes:
        embeddings: a row for each picture, of any norm.
        people: the person on each picture, by the same names in probes and gallery.
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


def evaluate_identification(
    probes: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    distractors: Float[np.ndarray, "k dim"] | None,
    options: IdentificationOptions,
) -> Evaluation:
    """Rank-k, TPIR at FPIR where some probes have no mate, and TAR at FAR over all comparisons with mates and rivals.

    Args:
        probes: the pictures to identify.
        gallery: pictures of known people. If it is the very object given as ``probes``, a picture is not compared with
            itself.
        distractors: embeddings of pictures of people that are not among the probes, in any number.
        options: of the evaluation.

    Raises:
        DataError: embeddings that are zero, not finite or of different lengths, no probe with a mate, or
            ``mates="each"`` without distractors.
        ValueError: a rank beyond 1..100, or a rate beyond its bounds.
    """
    require_in_range(options.ranks, DEPTH, options.fpirs)
    numbers = {person: number for number, person in enumerate(sorted(set(probes.people)))}
    people = np.array([numbers[person] for person in probes.people], np.int64)
    compared = _compare(probes, people, gallery, distractors, numbers, options)
    sizes = {
        "probes": len(people),
        "mated_probes": len(np.unique(compared.probe)),
        "gallery": len(gallery.people),
        "distractors": 0 if distractors is None else len(distractors),
        "identities": len(numbers),
        "genuine": len(compared.probe),
        "impostors": int(compared.rivals.sum()),
    }
    drawn = all_draws(len(numbers), options.bootstrap, options.seed)
    verified = verify_comparisons(compared, people, options.fars, options.far_rule, drawn)
    ranking = compared.rank(DEPTH)
    figures = closed_set([ranking], people, options.ranks, drawn)
    curves = {"cmc": {"rank": list(range(1, DEPTH + 1)), "rate": ranking.cmc().tolist()}}
    if options.mates == "best" and sizes["mated_probes"] < len(people):
        opened = open_set([ranking], people, options.fpirs, drawn)
        figures |= opened.figures
        if opened.curves:
            curves["dir"] = opened.curves[0]
    figures |= verified.figures
    if verified.roc is not None:
        curves["roc"] = verified.roc
    return Evaluation(
        name="identification",
        protocol={
            "kind": "identification",
            "mates": options.mates,
            **sizes,
            "ties": "a rival as similar as the mate comes before it",
            "detected": "the mate comes first and its similarity >= threshold",
            "accept": "similarity >= threshold",
            "far_rule": options.far_rule,
            "search": options.engine,
            "bootstrap": options.bootstrap,
            "seed": options.seed,
        },
        metrics=figures.of,
        curves=curves,
        worst={
            "gallery_misses": gallery_misses(ranking, probes.names, gallery.names),
            "impostor": _named(verified.impostors, probes, gallery),
        },
        fingerprint=_fingerprint(
            f"{options.bootstrap}\t{options.seed}\t{options.mates}\t{sizes['distractors']}", probes, gallery
        ),
        replicates=figures.replicates,
    )


def _compare(
    probes: LabelledEmbeddings,
    people: Int64[np.ndarray, " n"],
    gallery: LabelledEmbeddings,
    distractors: Float[np.ndarray, "k dim"] | None,
    numbers: Mapping[str, int],
    options: IdentificationOptions,
) -> Comparison:
    """The comparison of pictures whose people have names; raises DataError where there is nothing to compare."""
    if options.mates == "each" and (distractors is None or not len(distractors)):
        raise DataError("identification: every mate is ranked among the distractors, and there are none; give some")
    dims = {each.shape[1] for each in (probes.embeddings, gallery.embeddings, distractors) if each is not None}
    if len(dims) > 1:
        raise DataError(
            f"identification: probes, gallery and distractors have embeddings of different lengths: {sorted(dims)}"
        )
    compared = Comparison(
        unit(probes.embeddings, "probes"),
        people,
        gallery.embeddings,
        np.array([numbers.get(person, -2) for person in gallery.people], np.int64),
        distractors,
        mates=options.mates,
        engine=options.engine,
        same_pictures=gallery is probes,
    )
    if not len(compared.probe):
        raise DataError(
            f"identification: no probe has a mate in the gallery; people are matched by name, the probes' look like "
            f"{probes.people[0]!r}, the gallery's like {gallery.people[0]!r}"
        )
    return compared


def _named(
    comparisons: Sequence[WrongPair], probes: LabelledEmbeddings, gallery: LabelledEmbeddings
) -> list[Mapping[str, Any]]:
    """Comparisons of a probe with a row, by the names of their pictures."""
    return [
        {"left": probes.names[probe], "right": row_name(gallery.names, row), "similarity": similarity}
        for similarity, probe, row in comparisons
    ]


def _fingerprint(protocol: str, probes: LabelledEmbeddings, gallery: LabelledEmbeddings) -> str:
    """A digest that identifies evaluations of the same pictures with the same draws."""
    lines = [
        f"{picture}\t{person}"
        for side in (probes, gallery)
        for picture, person in zip(side.names, side.people, strict=True)
    ]
    question = "\n".join([protocol, *lines])
    return hashlib.sha256(question.encode("utf-8", "surrogateescape")).hexdigest()[:32]
