"""One template for each enrolled person, from several pictures, and which way of making it identifies best.

With unit embeddings e_1 … e_m of the pictures of a person and a probe p, the person's similarity is

- ``"best"``: max_i ⟨p, e_i⟩, the nearest picture;
- ``"mean"``: ⟨p, t⟩ with t = Σ e_i / ‖Σ e_i‖;
- ``"weighted"``: the same with t = Σ w_i e_i / ‖Σ w_i e_i‖, where w_i ≥ 0 is the quality of a picture, or the norm that
  the network gave its embedding, which margins such as MagFace's (Meng, Zhao, Huang, Zhou, CVPR 2021) train to be a
  quality. Weights of one person count by their ratios alone.

Mean and weighted by norm are the templates of IJB with the flags N0 and N1, of
:mod:`vplface.evaluation.templates`, with each picture a medium of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from vplface.errors import DataError
from vplface.evaluation.identification.evaluate import LabelledEmbeddings, evaluate_identification
from vplface.evaluation.identification.options import IdentificationOptions
from vplface.evaluation.result import Evaluation

TemplateKind = Literal["best", "mean", "weighted"]
"""The ways to make one similarity of the pictures of a person."""


def person_templates(
    embeddings: Float[np.ndarray, "n dim"],
    person: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> Float32[np.ndarray, "people dim"]:
    """The template of each person, of unit norm.

    Args:
        embeddings: of the pictures, of any norm; they are scaled to unit norm first.
        person: the person on each picture, 0 … people − 1, each at least once.
        weights: of the pictures, not negative; None weighs them equally, which gives the mean.

    Raises:
        DataError: embeddings that cancel each other out, or weights of a person that are all zero.
        ValueError: a weight that is negative or not finite.
    """
    weight = np.ones(len(person)) if weights is None else weights.astype(np.float64)
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weights of pictures must be finite and not negative")
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(int(person.max(initial=-1)) + 1))
    scaled = embeddings[order].astype(np.float64)
    scaled *= (weight[order] / np.linalg.norm(scaled, axis=1))[:, None]
    sums = np.add.reduceat(scaled, starts)
    norms = np.linalg.norm(sums, axis=1)
    lost = np.flatnonzero(~(norms > 1e-6 * np.maximum.reduceat(weight[order], starts)))
    if len(lost):
        raise DataError(
            f"the pictures of person {lost[0]} have no mean: their embeddings cancel each other out, or all their "
            "weights are zero"
        )
    templates: Float32[np.ndarray, "people dim"] = (sums / norms[:, None]).astype(np.float32)
    return templates


def evaluate_templates(
    probes: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    distractors: Float[np.ndarray, "k dim"] | None,
    kinds: Sequence[TemplateKind],
    options: IdentificationOptions,
    weights: Float[np.ndarray, " m"] | None = None,
) -> dict[TemplateKind, Evaluation]:
    """Rank-k and TPIR at FPIR with each kind of template, for the same probes and the same draws of people.

    :func:`vplface.evaluation.compare` gives their paired differences. There is no TAR at FAR: it would be over pictures
    for one kind and over people for the others.

    Args:
        probes: the pictures to identify, none of them in the gallery.
        gallery: pictures of known people, with the norms that the network gave them.
        distractors: as for :func:`vplface.evaluation.identification.evaluate_identification`, each a person of its own.
        kinds: the kinds to evaluate.
        options: of the evaluation; ``mates="best"``.
        weights: of the pictures of the gallery; None for the norms of their embeddings.

    Raises:
        DataError: as :func:`person_templates` and
            :func:`vplface.evaluation.identification.evaluate_identification`.
        ValueError: the probes are the gallery, or ``mates`` is not ``"best"``.
    """
    if probes is gallery or options.mates != "best":
        raise ValueError('templates need probes apart from the gallery, and mates="best"')
    options = replace(options, fars=())
    found: dict[TemplateKind, Evaluation] = {}
    for kind in kinds:
        made = gallery if kind == "best" else _as_templates(gallery, kind, weights)
        evaluation = evaluate_identification(probes, made, distractors, options)
        pictures = {
            "templates": kind,
            "enrolled_people": len(set(gallery.people)),
            "enrolled_pictures": len(gallery.people),
        }
        protocol = {**evaluation.protocol, **pictures}
        first = next(iter(found.values()), evaluation)
        found[kind] = replace(evaluation, protocol=protocol, fingerprint=first.fingerprint)
    return found


def split_people(whole: LabelledEmbeddings, seed: int = 0) -> tuple[LabelledEmbeddings, LabelledEmbeddings]:
    """A gallery and probes from one set: half of the people are enrolled, with half of their pictures.

    Of the people with several pictures a random half is enrolled with a random half of their pictures, rounded up.
    Their other pictures are probes with a mate; all pictures of all other people are probes without one.

    Raises:
        DataError: fewer than two people, or none with two pictures.
    """
    names = sorted(set(whole.people))
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row, name in enumerate(whole.people):
        rows[name].append(row)
    several = [name for name in names if len(rows[name]) > 1]
    if len(names) < 2 or not several:
        raise DataError(
            f"{len(names)} people, {len(several)} of them with two or more pictures: a person to enrol needs two "
            "pictures, and a stranger is needed beside"
        )
    rng = np.random.default_rng(seed)
    enrolled: list[int] = []
    for number in sorted(rng.permutation(len(several))[: max(1, len(several) // 2)].tolist()):
        of_person = rng.permutation(rows[several[number]]).tolist()
        enrolled += sorted(of_person[: (len(of_person) + 1) // 2])
    taken = set(enrolled)
    return _part(whole, enrolled), _part(whole, [row for row in range(len(whole.people)) if row not in taken])


def _as_templates(
    gallery: LabelledEmbeddings, kind: TemplateKind, weights: Float[np.ndarray, " m"] | None
) -> LabelledEmbeddings:
    names, first, person = np.unique(np.array(gallery.people, object), return_index=True, return_inverse=True)
    if kind == "mean":
        weights = None
    elif weights is None:
        weights = np.linalg.norm(gallery.embeddings, axis=1)
    features = person_templates(gallery.embeddings, person, weights)
    return LabelledEmbeddings(features, names.tolist(), [gallery.names[row] for row in first.tolist()])


def _part(whole: LabelledEmbeddings, rows: list[int]) -> LabelledEmbeddings:
    people, names = ([each[row] for row in rows] for each in (whole.people, whole.names))
    return LabelledEmbeddings(whole.embeddings[rows], people, names)
