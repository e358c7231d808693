"""One evaluation set on a page: curves, folds, groups, strata and the worst errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vplface.report import calibration, evaluation_plots, quality, strata, thresholds
from vplface.report.arms import arm, figure_of_run, legend, mapping
from vplface.report.faces import Faces
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.plots import Plot
from vplface.report.record import RunRecord

WORST = 8

_MISTAKES = (
    (
        "genuine",
        "Same person, scored lowest",
        "Pairs of one person that the model thinks least alike.",
        ("left", "right"),
    ),
    (
        "impostor",
        "Different people, scored highest",
        "Pairs of two people that the model thinks most alike.",
        ("left", "right"),
    ),
    (
        "gallery_misses",
        "Found somebody else",
        "The probe, the person of the gallery that the model found, and its mate, which it should have found.",
        ("probe", "found", "mate"),
    ),
)


def evaluation_section(runs: Sequence[RunRecord], set_name: str, faces: Faces) -> Markup | None:
    """The section of one set, without its figures; None if it is empty."""
    quoted = {
        run.name: {
            metric: figure_of_run(run, set_name, metric)
            for metric in mapping(run.evaluations.get(set_name, {}).get("metrics"))
        }
        for run in runs
    }
    roc = evaluation_plots.roc(runs, set_name, quoted)
    histograms = list(evaluation_plots.histograms(runs, set_name))
    parts: list[Child] = []
    if roc is not None or histograms:
        stack = tag("div", [figure_of(figure) for figure in histograms], class_="stack") if histograms else None
        parts.append(tag("div", figure_of(roc) if roc else None, stack, class_="pair"))
    for pair in (
        (evaluation_plots.det(runs, set_name), evaluation_plots.folds(runs, set_name)),
        (evaluation_plots.ranks(runs, set_name), evaluation_plots.identification(runs, set_name)),
    ):
        if any(pair):
            parts.append(tag("div", [figure_of(figure) for figure in pair if figure], class_="halves"))
    parts += filter(None, [each(runs, set_name) for each in (thresholds.claims, thresholds.promise, thresholds.hard)])
    if calibrated := list(calibration.plots(runs, set_name)):
        parts += [tag("h3", "Calibration"), tag("div", [figure_of(each) for each in calibrated], class_="halves")]
    if by_group := list(evaluation_plots.groups(runs, set_name)):
        parts += [tag("h3", "By group"), tag("div", [figure_of(figure) for figure in by_group], class_="halves")]
        parts += thresholds.across(runs, set_name)
    if (scores := quality.table(runs, set_name)) is not None:
        by_quality = [figure_of(each) for each in quality.plots(runs, set_name)]
        parts += [tag("h3", "Quality scores"), tag("p", quality.WORDS, class_="note"), scores]
        parts.append(tag("div", by_quality, class_="halves"))
    if by_stratum := list(strata.plots(runs, set_name)):
        parts += [tag("h3", "By quality of the pictures"), tag("p", strata.WORDS, class_="note")]
        parts += [strata.table(runs, set_name), tag("div", [figure_of(each) for each in by_stratum], class_="halves")]
    for kind, heading, words, sides in _MISTAKES:
        shown = [(index, run, worst(run, set_name, kind, sides)) for index, run in enumerate(runs)]
        if any(cases for _, _, cases in shown):
            parts += [tag("h3", heading), tag("p", words, class_="note")]
            for index, run, cases in shown:
                if cases:
                    cards = [faces.card(set_name, case, sides) for case in cases]
                    parts += [
                        tag("p", arm(run, index), class_="arms") if len(runs) > 1 else None,
                        tag("div", cards, class_="faces" if len(sides) == 2 else "faces of-three"),
                    ]
    if not parts:
        return None
    return join(tag("h2", f"Evaluation on {set_name}"), legend(runs), parts)


def worst(run: RunRecord, set_name: str, kind: str, sides: Sequence[str]) -> list[Mapping[str, Any]]:
    """The worst errors of an arm, of one kind."""
    cases = mapping(run.evaluations.get(set_name, {}).get("worst")).get(kind)
    if not isinstance(cases, list):
        return []
    return [case for case in cases if isinstance(case, Mapping) and all(side in case for side in sides)][:WORST]


def figure_of(figure: Plot) -> Markup:
    """A figure with its title and caption."""
    return tag("figure", tag("h4", figure.title), figure.picture, tag("figcaption", figure.note))
