"""Tables of the results of studies."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from vplface.console import Console, say
from vplface.evaluation.figure import Difference, Figure
from vplface.evaluation.metrics import Metric, in_order
from vplface.printable import printable_name
from vplface.report import guards_of
from vplface.report.study_findings import NOTHING, findings, folds_notes, study_cautions, study_verdicts
from vplface.study import Results, Study
from vplface.tables import Table


def show_study(study: Study) -> None:
    """Print figures of all arms, a table for each evaluation set, then the verdict and the path of the report."""
    console = Console()
    arms: Mapping[str, Any] = study.summary["runs"]
    for name in dict.fromkeys(name for figures in arms.values() for name in figures):
        console.print(_table(study, name))
    for line in study.verdict.split("\n"):
        say(line)
    say(f"report: {study.report}")


def _table(study: Study, name: str) -> Table:
    arms: Mapping[str, Any] = study.summary["runs"]
    of_set = [figures.get(name, {}) for figures in arms.values()]
    measured = {metric for figures in of_set for metric, entry in figures.items() if entry["value"] is not None}
    metrics = [metric for metric in in_order(measured) if not Metric.parse(metric).descriptive]
    seeds = len(study.summary.get("seeds", [0]))
    guards = [guard.get("set") for guard in guards_of(study.summary.get("finetuning", {}))]
    role = "" if name not in guards else ", the guard" if len(guards) == 1 else ", a guard"
    table = Table(
        f"{printable_name(name)}{role}: %, and 95 % interval" + (f", mean of {seeds} seeds" if seeds > 1 else ""),
        ["", *(Metric.parse(metric).label for metric in metrics), "coverage"],
    )
    for arm, figures in arms.items():
        reached = next((run.last("coverage") for run in study.runs if run.name == arm), None)
        cells = (_figure(figures.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(printable_name(arm), *cells, "" if reached is None else f"{100 * reached:.0f}")
    for other, sets in study.summary.get("differences", {}).items():
        cells = (_difference(sets.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(printable_name(f"{other} − {study.summary['differences_to']}"), *cells, "", style="bold")
    return table


def show_results(results: Results, settings: Sequence[str], arms: Sequence[str]) -> None:
    """Print figures and differences of some settings and arms, then verdicts, cautions and the path of the report.

    Differences are those to the first baseline; the page has the others, and all intervals.
    """
    console = Console()
    for setting in settings:
        summary = results.summary["settings"][setting]
        sets = dict.fromkeys(name for entry in summary["arms"].values() for name in entry["sets"])
        for name in sets:
            console.print(_figures_of_setting(setting, name, summary, arms))
            if (table := _differences_of_setting(name, summary, arms)) is not None:
                console.print(table)
        for note in folds_notes(summary):
            console.print(note, style="dim", soft_wrap=True)
    chosen = [f for f in findings(results.summary) if f.setting in settings and f.arm in arms]
    for sentences in list(study_verdicts(chosen).values())[:1] or [[NOTHING]]:
        for sentence in sentences:
            say(sentence)
    if others := list(dict.fromkeys(f.baseline for f in chosen))[1:]:
        console.print(f"Intervals, and differences to {' and '.join(others)}: see the report.", soft_wrap=True)
    for caution in study_cautions({**results.summary, "failed": {}}, chosen):
        console.print(caution, style="dim", soft_wrap=True)
    for run, why in results.summary["failed"].items():
        print(f"{run} failed:", *(f"  {line}" for line in why.splitlines()), sep="\n", file=sys.stderr)
    say(f"report: {results.report}")


def _metrics_of(name: str, arms: Mapping[str, Any]) -> list[str]:
    figures = (entry["sets"].get(name, {}) for entry in arms.values())
    measured = {metric for entries in figures for metric, entry in entries.items() if entry["value"] is not None}
    return in_order(measured)


def _figures_of_setting(setting: str, name: str, summary: Mapping[str, Any], arms: Sequence[str]) -> Table:
    metrics = _metrics_of(name, summary["arms"])
    table = Table(
        f"{printable_name(setting)}, {printable_name(name)}: %, means over n seeds",
        ["", *(Metric.parse(metric).short for metric in metrics), "loss", "n"],
    )
    for arm, entry in summary["arms"].items():
        if arm in arms:
            figures, loss = entry["sets"].get(name, {}), entry["final_loss"]["value"]
            values = (figures.get(metric, {}).get("value") for metric in metrics)
            cells = ("" if value is None else f"{100 * value:.1f}" for value in values)
            table.add_row(printable_name(arm), *cells, "" if loss is None else f"{loss:.2f}", str(len(entry["seeds"])))
    return table


def _differences_of_setting(name: str, summary: Mapping[str, Any], arms: Sequence[str]) -> Table | None:
    baseline, others = next(iter(summary["differences"].items()), ("", {}))
    metrics = _metrics_of(name, summary["arms"])
    heads = [Metric.parse(metric).short for metric in metrics]
    table = Table(f"minus {printable_name(baseline)}: points; *: significant", ["", *heads])
    for arm, sets in others.items():
        entries = [sets.get(name, {}).get(metric, {}) for metric in metrics]
        if arm in arms and any(entries):
            table.add_row(printable_name(arm), *(_marked(entry) for entry in entries))
    return table if table.row_count else None


def _marked(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['difference']:+.1f}{'*' if entry['distinguishable'] else ' '}" if entry else ""


def _figure(entry: Mapping[str, Any]) -> Text:
    figure = Figure.from_json(entry)
    if figure.value is None:
        return Text()
    ends = figure.interval
    return with_interval(f"{100 * figure.value:.1f}", ends and f"{100 * ends[0]:.1f} – {100 * ends[1]:.1f}")


def _difference(entry: Mapping[str, Any]) -> Text:
    difference = Difference.from_json(entry)
    if difference.value is None or difference.interval is None:
        return Text()
    low, high = difference.interval
    return with_interval(f"{100 * difference.value:+.1f}", f"{100 * low:+.1f} – {100 * high:+.1f}")


def with_interval(value: str, interval: str | None) -> Text:
    """A cell: a figure, and below it its interval, dimmed."""
    return Text(value) if interval is None else Text.assemble(value, "\n", (interval, "dim"))
