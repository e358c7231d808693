"""Results on the terminal: a short table for people, one JSON object for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from vplface.console import Console, print_json, say
from vplface.evaluation.figure import Difference, Figure
from vplface.evaluation.metrics import Metric, in_order
from vplface.printable import printable_name
from vplface.report.study_findings import NOTHING, findings, study_cautions, study_verdicts
from vplface.study import Estimate, Results, Study


def show_study(study: Study) -> None:
    """Figures of all arms side by side, a table per evaluation set; what may be said of them; where the report is."""
    console = Console()
    arms: Mapping[str, Any] = study.summary["runs"]
    for name in dict.fromkeys(name for figures in arms.values() for name in figures):
        console.print(_table(study, name))
    say(study.verdict)
    say(f"report: {study.report}")


def _table(study: Study, name: str) -> Table:
    arms: Mapping[str, Any] = study.summary["runs"]
    of_set = [figures.get(name, {}) for figures in arms.values()]
    measured = {metric for figures in of_set for metric, entry in figures.items() if entry["value"] is not None}
    metrics = in_order(measured)
    seeds = len(study.summary.get("seeds", [0]))
    table = Table(
        title=f"{printable_name(name)}: %, and 95 % interval" + (f", mean of {seeds} seeds" if seeds > 1 else ""),
        title_justify="left",
    )
    table.add_column("")
    for metric in metrics:
        table.add_column(Metric.parse(metric).label, justify="right")
    table.add_column("coverage", justify="right")
    for arm, figures in arms.items():
        reached = next((run.last("coverage") for run in study.runs if run.name == arm), None)
        cells = (_figure(figures.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(printable_name(arm), *cells, "" if reached is None else f"{100 * reached:.0f}")
    for other, sets in study.summary.get("differences", {}).items():
        cells = (_difference(sets.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(printable_name(f"{other} − {study.summary['differences_to']}"), *cells, "", style="bold")
    return table


def show_results(results: Results, settings: Sequence[str], arms: Sequence[str]) -> None:
    """Figures and differences of some settings and arms; what may be said, with its cautions; where the report is.

    Differences are those to the first baseline; the page has the others, and all intervals.
    """
    console = Console()
    for setting in settings:
        told = results.summary["settings"][setting]
        sets = dict.fromkeys(name for entry in told["arms"].values() for name in entry["sets"])
        for name in sets:
            console.print(_figures_of_setting(setting, name, told, arms))
            if (table := _differences_of_setting(name, told, arms)) is not None:
                console.print(table)
    found = [f for f in findings(results.summary) if f.setting in settings and f.arm in arms]
    for sentences in list(study_verdicts(found).values())[:1] or [[NOTHING]]:
        for sentence in sentences:
            say(sentence)
    if others := list(dict.fromkeys(f.baseline for f in found))[1:]:
        console.print(f"Intervals, and differences to {' and '.join(others)}: see the report.", soft_wrap=True)
    for caution in study_cautions({**results.summary, "failed": {}}, found):
        console.print(caution, style="dim", soft_wrap=True)
    for run, why in results.summary["failed"].items():
        print(f"{run} failed:", *(f"  {line}" for line in why.splitlines()), sep="\n", file=sys.stderr)
    say(f"report: {results.report}")


def _metrics_of(name: str, arms: Mapping[str, Any]) -> list[str]:
    figures = (entry["sets"].get(name, {}) for entry in arms.values())
    measured = {metric for each in figures for metric, entry in each.items() if entry["value"] is not None}
    return in_order(measured)


def _figures_of_setting(setting: str, name: str, told: Mapping[str, Any], arms: Sequence[str]) -> Table:
    metrics = _metrics_of(name, told["arms"])
    table = Table(
        title=f"{printable_name(setting)}, {printable_name(name)}: %, means over n seeds",
        title_justify="left",
        box=SIMPLE,
    )
    table.add_column("", no_wrap=True)
    for head in (*(Metric.parse(metric).short for metric in metrics), "loss", "n"):
        table.add_column(head, justify="right")
    for arm, entry in told["arms"].items():
        if arm in arms:
            figures, loss = entry["sets"].get(name, {}), entry["final_loss"]["value"]
            values = (figures.get(metric, {}).get("value") for metric in metrics)
            cells = ("" if value is None else f"{100 * value:.1f}" for value in values)
            table.add_row(printable_name(arm), *cells, "" if loss is None else f"{loss:.2f}", str(len(entry["seeds"])))
    return table


def _differences_of_setting(name: str, told: Mapping[str, Any], arms: Sequence[str]) -> Table | None:
    baseline, others = next(iter(told["differences"].items()), ("", {}))
    metrics = _metrics_of(name, told["arms"])
    table = Table(title=f"minus {printable_name(baseline)}: points; *: told apart", title_justify="left", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(Metric.parse(metric).short, justify="right")
    for arm, sets in others.items():
        entries = [sets.get(name, {}).get(metric, {}) for metric in metrics]
        if arm in arms and any(entries):
            table.add_row(printable_name(arm), *(_marked(entry) for entry in entries))
    return table if table.row_count else None


def _marked(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['difference']:+.1f}{'*' if entry['distinguishable'] else ' '}" if entry else ""


def show_estimate(estimate: Estimate, as_json: bool) -> None:
    """The runs of a study and what they take, a row for the seeds of each arm in each setting."""
    costs = estimate.costs
    minutes = estimate.seconds / 60
    if as_json:
        runs = [
            {
                "run": cost.cell.name,
                "setting": cost.cell.setting,
                "arm": cost.cell.arm,
                "seed": cost.cell.seed,
                "folder": str(cost.cell.folder),
                "state": cost.state,
                "identities": cost.identities,
                "pictures": cost.pictures,
                "steps": cost.steps,
                "taken": cost.taken,
                "pictures_per_second": cost.pictures_per_second,
                "measured_on": cost.measured_on,
                "minutes_left": cost.seconds / 60,
            }
            for cost in costs
        ]
        print_json({"schema": 1, "runs": runs, "workers": estimate.workers, "minutes_left": minutes})
        return
    console = Console()
    console.print(f"{len(costs)} runs, {estimate.workers} at a time")
    for setting in dict.fromkeys(cost.cell.setting for cost in costs):
        table = Table(title=printable_name(setting), title_justify="left", box=None)
        table.add_column("arm", overflow="fold")
        for head in ("seeds", "people", "pictures", "steps", "per s", "min", "left", "runs"):
            table.add_column(head, justify="right", no_wrap=head != "seeds")
        of_setting = [cost for cost in costs if cost.cell.setting == setting]
        for arm in dict.fromkeys(cost.cell.arm for cost in of_setting):
            same = [cost for cost in of_setting if cost.cell.arm == arm]
            first = same[0]
            whole = first.steps * first.cell.config.batch_size / first.pictures_per_second / 60
            states = [cost.state for cost in same]
            table.add_row(
                printable_name(arm),
                _ranges([cost.cell.seed for cost in same]),
                *(f"{number:,}" for number in (first.identities, first.pictures, first.steps)),
                f"{first.pictures_per_second:.0f}{'' if first.measured_on == 'runs' else '*'}",
                f"{whole:.1f}",
                f"{sum(cost.seconds for cost in same) / 60:.1f}",
                ",\n".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
            )
        console.print(table)
    total = sum(cost.seconds for cost in costs) / 60
    console.print(
        f"per s: pictures; min: minutes of training a run; left: of all seeds. {total:.1f} minutes are left, about"
        f" {minutes:.1f} with {estimate.workers} at a time; evaluation comes on top.",
        soft_wrap=True,
    )
    if any(cost.measured_on == "random" for cost in costs):
        console.print(
            "* from a few steps of backbone and head on random pictures, one process alone: loading and neighbours cost"
            " more. The others are medians in the logs of finished runs of the same backbone and batch.",
            style="dim",
            soft_wrap=True,
        )
    if any(cost.state == "changed" for cost in costs):
        console.print("changed: the folder holds a run of another configuration; --overwrite starts it anew.")
    if any(cost.state == "anew" for cost in costs):
        console.print("anew: an earlier run, which an --overwrite that was stopped had not come to.")


def _ranges(seeds: list[int]) -> str:
    """0–2, 7"""
    ends: list[list[int]] = []
    for seed in sorted(seeds):
        if ends and seed == ends[-1][1] + 1:
            ends[-1][1] = seed
        else:
            ends.append([seed, seed])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in ends)


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
