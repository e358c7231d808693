"""The page of one evaluated model, or of several that were evaluated under the same protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vplface.report.arms import distinct, set_names
from vplface.report.document import document, limits, write_page
from vplface.report.evaluation import evaluation_section
from vplface.report.faces import Faces, PictureOf
from vplface.report.markup import join, tag
from vplface.report.provenance import provenance
from vplface.report.record import RunRecord
from vplface.report.results import results
from vplface.report.verdict import differences, verdict


def write_evaluation(
    path: str | Path,
    runs: Sequence[RunRecord],
    title: str,
    comparisons: Sequence[Mapping[str, Mapping[str, Any]]] = (),
    *,
    picture_of: PictureOf | None = None,
) -> str:
    """Write one self-contained page about evaluations.

    Args:
        path: the HTML file; written atomically.
        runs: the models, each with ``evaluations``; the first is the one that others are compared with.
        title: the headline.
        comparisons: for each further model {set: :func:`vplface.evaluation.compare`}; empty for none.
        picture_of: returns the pictures of the worst errors; with None only names are shown.

    Returns:
        The verdict: the figures of one model, or whether models are statistically different.

    Raises:
        ValueError: there are no models, or not one comparison for each further model.
    """
    if not runs or len(comparisons) not in (0, len(runs) - 1):
        raise ValueError(f"{len(runs)} models, {len(comparisons)} comparisons: need one for each model but the first")
    runs = distinct(runs)
    compared, notes = [], []
    for other, comparison in zip(runs[1:], comparisons, strict=False):
        used, unused = differences([runs[0], other], comparison)
        compared.append((other, used))
        notes += unused
    sentence = " ".join(verdict([runs[0], other], used) for other, used in compared) or verdict(runs, [])
    if any(len(used) > 1 for _, used in compared):
        notes.append("Of many intervals at the 95 % level one in twenty excludes 0 by chance alone.")
    faces = Faces(picture_of)
    body = tag(
        "main",
        tag("p", "vplface · evaluation", class_="eyebrow"),
        tag("h1", title),
        tag("p", ", ".join(run.name for run in runs), class_="lead"),
        tag("p", sentence, class_="verdict"),
        [tag("p", note, class_="caution") for note in notes],
        results(runs, compared),
        _tests(compared_with=runs[0], others=runs[1:], comparisons=comparisons),
        [evaluation_section(runs, set_name, faces) for set_name in set_names(runs)],
        provenance(runs),
        limits(),
    )
    write_page(Path(path), document(title, body, script=""))
    return sentence


def _tests(
    compared_with: RunRecord, others: Sequence[RunRecord], comparisons: Sequence[Mapping[str, Mapping[str, Any]]]
) -> list[Any]:
    """McNemar's test of each comparison, in words."""
    said = []
    for other, comparison in zip(others, comparisons, strict=False):
        for entries in comparison.values():
            for entry in entries.values():
                if test := entry.get("mcnemar"):
                    words = join(
                        f"{other.name} alone classifies {test['only_second']} pairs correctly, {compared_with.name} "
                        f"alone {test['only_first']}: McNemar's exact test gives p = {test['p']:.2g}. It assumes "
                        "that pairs are independent, which fails where people recur; the intervals above do not."
                    )
                    said.append(tag("p", words, class_="note"))
    return said
