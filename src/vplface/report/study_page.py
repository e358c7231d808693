"""The page of a study: settings × arms over seeds, their paired differences, and how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from vplface.evaluation.figure import Figure
from vplface.evaluation.metrics import Metric, in_order
from vplface.report import plots
from vplface.report.arms import capitalised, legend, mapping, swatch
from vplface.report.document import document, limits, write_page
from vplface.report.evaluation import figure_of
from vplface.report.forest import forest
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.record import RunRecord
from vplface.report.study_findings import (
    NOTHING,
    Finding,
    digits_for,
    findings,
    folds_notes,
    points,
    study_cautions,
    study_verdict,
    study_verdicts,
)

_LOGGED = ("Loss", "Coverage")
"""Figures of the log that a study shows; the pages of runs have the others."""


def write_study(path: str | Path, summary: Mapping[str, Any], curves: Mapping[str, Sequence[RunRecord]]) -> str:
    """Write one self-contained page about a study.

    Args:
        path: the HTML file; written atomically.
        summary: as summary.json holds it: every figure of the page is in it.
        curves: {setting: the arms' logs, averaged over seeds}.

    Returns:
        The verdict, the sentences at the head of the page, a line each.
    """
    found = list(findings(summary))
    arms, settings = list(summary["arms"]), mapping(summary["settings"])
    counts = (("setting", len(settings)), ("arm", len(arms)), ("seed", len(summary["seeds"])))
    body = tag(
        "main",
        tag("p", "vplface · study", class_="eyebrow"),
        tag("h1", summary["name"]),
        tag("p", " × ".join(f"{count} {noun}{'s' * (count > 1)}" for noun, count in counts), class_="lead"),
        _verdict(found),
        [tag("p", note, class_="caution") for note in study_cautions(summary, found)],
        tag("ul", [tag("li", swatch(k), name) for k, name in enumerate(arms)], class_="arms"),
        tag("h2", "Differences"),
        _forests(found, arms),
        tag("h2", "Figures"),
        [_setting(name, entry, arms, [f for f in found if f.setting == name]) for name, entry in settings.items()],
        tag("h2", "Training"),
        [_training(name, curves.get(name, ()), arms, _shown(summary)) for name in settings],
        limits(),
    )
    write_page(Path(path), document(summary["name"], body, script=""))
    return study_verdict(found)


def _verdict(found: Sequence[Finding]) -> Markup:
    """Tables of differences: those to the first baseline are shown, the others are collapsed."""
    verdicts = study_verdicts(found)
    if not verdicts:
        return tag("p", NOTHING, class_="verdict")
    lists = [
        tag("ul", [tag("li", sentence) for sentence in sentences], class_="verdict") for sentences in verdicts.values()
    ]
    others = [
        tag("details", tag("summary", f"Beside {baseline}"), listed)
        for baseline, listed in zip(list(verdicts)[1:], lists[1:], strict=True)
    ]
    return join(lists[0], *others)


def _forests(found: Sequence[Finding], arms: Sequence[str]) -> Markup:
    if not found:
        return tag("p", "There are no paired differences yet.", class_="note")
    colours = {name: k for k, name in enumerate(arms)}
    figures = []
    for metric in sorted({finding.metric for finding in found}, key=attrgetter("order")):
        rows = [finding for finding in found if finding.metric == metric]
        picture = forest(rows, colours, f"Differences of {metric.label} with intervals")
        figures.append(tag("figure", tag("h4", capitalised(metric.label)), picture))
    note = (
        "A row is an arm minus a baseline, on the same pairs and seeds. Bars: 95 % intervals of the bootstrap over "
        "people and seeds. Dashed: Student's t over seeds, where there are three or more. Numbers in colour: no "
        "interval contains 0."
    )
    return join(tag("p", note, class_="note"), tag("div", figures, class_="forests"))


def _setting(name: str, entry: Mapping[str, Any], arms: Sequence[str], found: Sequence[Finding]) -> Markup:
    of_arms = entry["arms"]
    if not of_arms:
        return join(tag("h3", name), tag("p", "No arm has a finished seed yet.", class_="note"))
    sets = dict.fromkeys(set_name for entry in of_arms.values() for set_name in entry["sets"])
    tables = [
        _table(f"{name} · {set_name}", set_name, of_arms, arms, [f for f in found if f.set_name == set_name])
        for set_name in sets
    ]
    return join(*tables, [tag("p", each, class_="note") for each in folds_notes(entry)])


def _table(
    title: str, set_name: str, of_arms: Mapping[str, Any], arms: Sequence[str], found: Sequence[Finding]
) -> Markup:
    figures = {name: mapping(entry["sets"].get(set_name)) for name, entry in of_arms.items()}
    metrics = in_order({metric for each in figures.values() for metric in each})
    rows: list[Markup] = []
    for name, entry in of_arms.items():
        seeds, loss = entry["seeds"], entry["final_loss"]
        reached = entry["coverage"]["value"]
        covered = "" if reached is None else f", coverage {100 * reached:.0f}\N{NO-BREAK SPACE}%"
        label = tag("span", f"{len(seeds)} seed{'s' * (len(seeds) > 1)}{covered}", class_="range")
        cells = [_measured(mapping(figures[name].get(metric)), seeds) for metric in metrics]
        lost = "—" if loss["value"] is None else f"{loss['value']:.3f}"
        cells.append(tag("td", tag("span", lost, class_="value"), title=_seeds(seeds, loss["per_seed"], 1, 3)))
        rows.append(
            tag(
                "tr",
                tag("th", tag("span", swatch(arms.index(name)), name, class_="armname"), label, scope="row"),
                cells,
            )
        )
    for arm_name, baseline in dict.fromkeys((f.arm, f.baseline) for f in found):
        of_pair = {f.metric.key: f for f in found if (f.arm, f.baseline) == (arm_name, baseline)}
        cells = [_paired(of_pair[metric]) if metric in of_pair else tag("td", "—") for metric in metrics]
        label = tag("span", "paired, same pairs and seeds", class_="range")
        head = tag("th", f"{arm_name} − {baseline}", label, scope="row")
        rows.append(tag("tr", head, cells, tag("td"), class_="paired"))
    heads = ["", *(capitalised(Metric.parse(metric).label) for metric in metrics), "Final loss"]
    table = tag(
        "table",
        tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
        tag("tbody", rows),
        class_="results",
    )
    note = (
        "Percent, means over seeds with 95 % intervals; tooltips list the seeds. Differences have the "
        "bootstrap's interval, then Student's t over seeds, then in how many seeds they have this sign. Final loss: of "
        "training, "
        "over the last twentieth of its steps; how well the training pictures are separated, which says little about "
        "people who were never seen. Losses of arms with different losses are not comparable. Coverage: the share of "
        "classes with a living memory at the end."
    )
    return join(tag("h3", title), tag("div", table, class_="wide"), tag("p", note, class_="note"))


def _measured(entry: Mapping[str, Any], seeds: Sequence[int]) -> Markup:
    figure = Figure.from_json(entry)
    if figure.value is None:
        reason = figure.details.get("reason")
        why = tag("span", str(reason), class_="reason") if reason else None
        return tag("td", tag("span", "—", class_="value unclear"), why)
    ends = figure.interval
    digits = 2 if ends is not None and ends[1] - ends[0] < 0.01 else 1
    bounds = f"{100 * ends[0]:.{digits}f} – {100 * ends[1]:.{digits}f}" if ends else None
    return tag(
        "td",
        tag("span", f"{100 * figure.value:.{digits}f}", class_="value"),
        tag("span", bounds, class_="range") if bounds else None,
        title=_seeds(seeds, figure.details.get("per_seed", ()), 100, 2),
    )


def _paired(finding: Finding) -> Markup:
    digits = digits_for(finding)
    count = len(finding.per_seed)
    lines: list[Child] = [
        tag("span", points(finding.value, digits), class_="value" if finding.distinguishable else "value unclear")
    ]
    for word, ends in (("", finding.interval), ("t ", finding.t_interval)):
        if ends is not None:
            low, high = (points(end, digits) for end in ends)
            lines.append(tag("span", f"{word}{low} … {high}", class_="range"))
    lines.append(tag("span", f"sign: {finding.same_sign} of {count}", class_="range"))
    return tag("td", lines, title=", ".join(points(value, 2) for value in finding.per_seed))


def _seeds(seeds: Sequence[int], values: Sequence[float | None], factor: float, digits: int) -> str:
    return ", ".join(
        f"seed {seed}: {'—' if value is None else f'{factor * value:.{digits}f}'}"
        for seed, value in zip(seeds, values, strict=False)
    )


def _training(name: str, runs: Sequence[RunRecord], arms: Sequence[str], metrics: frozenset[str]) -> Markup | None:
    """The logs of a setting; an arm without finished runs keeps its place, so that colours stay."""
    if not runs:
        return None
    by_name = {run.name: run for run in runs}
    placed = [_only(by_name[arm], metrics) if arm in by_name else RunRecord(Path(), arm) for arm in arms]
    titles = {metric: capitalised(Metric.parse(metric).label) for metric in metrics}
    figures = [figure for figure in plots.curves(placed) if figure.title in _LOGGED]
    figures += plots.validation(placed, titles)
    return join(
        tag("h3", name),
        legend(placed),
        tag("div", [figure_of(figure) for figure in figures], class_="figures"),
        tag("p", "Means over seeds.", class_="note"),
    )


def _only(run: RunRecord, metrics: frozenset[str]) -> RunRecord:
    """The run with only these metrics in its validation."""
    kept = [
        {
            **line,
            "validation": {
                set_name: {metric: values[metric] for metric in in_order(mapping(values)) if metric in metrics}
                for set_name, values in mapping(line.get("validation")).items()
            },
        }
        for line in run.validation
    ]
    return replace(run, validation=kept)


def _shown(summary: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        metric
        for setting in summary["settings"].values()
        for entry in setting["arms"].values()
        for metrics in entry["sets"].values()
        for metric in metrics
    )
