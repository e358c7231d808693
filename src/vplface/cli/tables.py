"""Results on the terminal: a short table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vplface.report.study_findings import findings, study_cautions
from vplface.report.verdict import metric_name, metric_order
from vplface.study import Estimate, Results, Study


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False)
    print()


def show_study(study: Study) -> None:
    """Figures of all arms side by side, a table per evaluation set; what may be said of them; where the report is."""
    console = Console()
    arms: Mapping[str, Any] = study.summary["runs"]
    for name in dict.fromkeys(name for figures in arms.values() for name in figures):
        console.print(_table(study, name))
    console.print(study.verdict, soft_wrap=True)
    console.print(f"report: {study.report}", soft_wrap=True, highlight=False)


def _table(study: Study, name: str) -> Table:
    arms: Mapping[str, Any] = study.summary["runs"]
    of_set = [figures.get(name, {}) for figures in arms.values()]
    measured = {metric for figures in of_set for metric, entry in figures.items() if entry["value"] is not None}
    metrics = sorted(measured, key=metric_order)
    seeds = len(study.summary.get("seeds", [0]))
    table = Table(
        title=f"{name}: %, and 95 % interval" + (f", mean of {seeds} seeds" if seeds > 1 else ""), title_justify="left"
    )
    table.add_column("")
    for metric in metrics:
        table.add_column(metric_name(metric), justify="right")
    table.add_column("coverage", justify="right")
    for arm, figures in arms.items():
        reached = next((run.last("coverage") for run in study.runs if run.name == arm), None)
        cells = (_figure(figures.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(arm, *cells, "" if reached is None else f"{100 * reached:.0f}")
    for other, sets in study.summary.get("differences", {}).items():
        cells = (_difference(sets.get(name, {}).get(metric, {})) for metric in metrics)
        table.add_row(f"{other} − {study.summary['differences_to']}", *cells, "", style="bold")
    return table


def show_results(results: Results) -> None:
    """A table for each setting and set; what may be said, with its cautions; what failed; where the report is."""
    console = Console()
    for setting, told in results.summary["settings"].items():
        sets = dict.fromkeys(name for entry in told["arms"].values() for name in entry["sets"])
        for name in sets:
            console.print(_table_of_setting(setting, name, told))
    console.print(results.verdict, soft_wrap=True)
    for caution in study_cautions({**results.summary, "failed": {}}, list(findings(results.summary))):
        console.print(caution, style="dim", soft_wrap=True)
    for run, why in results.summary["failed"].items():
        print(f"{run} failed:", *(f"  {line}" for line in why.splitlines()), sep="\n", file=sys.stderr)
    console.print(f"report: {results.report}", soft_wrap=True, highlight=False)


def _table_of_setting(setting: str, name: str, told: Mapping[str, Any]) -> Table:
    arms: Mapping[str, Any] = told["arms"]
    figures = {arm: entry["sets"].get(name, {}) for arm, entry in arms.items()}
    measured = {metric for each in figures.values() for metric, entry in each.items() if entry["value"] is not None}
    metrics = sorted(measured, key=metric_order)
    table = Table(title=f"{setting}, {name}: %, and 95 % interval, mean over seeds", title_justify="left")
    table.add_column("")
    for head in (*(metric_name(metric) for metric in metrics), "final loss", "seeds"):
        table.add_column(head, justify="right")
    for arm, entry in arms.items():
        loss = entry["final_loss"]["value"]
        cells = (_figure(figures[arm].get(metric, {})) for metric in metrics)
        table.add_row(arm, *cells, "" if loss is None else f"{loss:.3f}", str(len(entry["seeds"])))
    for baseline, others in told["differences"].items():
        for arm, sets in others.items():
            entries = [sets.get(name, {}).get(metric, {}) for metric in metrics]
            if any(entries):
                seeds = max(entry.get("seeds", 0) for entry in entries)
                cells = (_difference(entry) + _seeds(entry) for entry in entries)
                table.add_row(f"{arm} − {baseline}", *cells, "", str(seeds), style="bold")
    return table


def _seeds(entry: Mapping[str, Any]) -> str:
    """What the seeds of a difference say beside the bootstrap."""
    if not entry or entry["seeds"] < 2:
        return ""
    told = f"\n[dim]sign: {entry['same_sign']} of {entry['seeds']}[/]"
    if t_ci95 := entry.get("t_ci95"):
        told = f"\n[dim]t: {100 * t_ci95[0]:+.1f} – {100 * t_ci95[1]:+.1f}[/]{told}"
    return told


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
    table = Table(title=f"{len(costs)} runs, {estimate.workers} at a time", title_justify="left", box=None)
    for head in ("setting", "arm"):
        table.add_column(head, no_wrap=True)
    for head in ("seeds", "people", "pictures", "steps", "per s", "min", "left", "runs"):
        table.add_column(head, justify="right", no_wrap=head != "runs")
    for setting, arm in dict.fromkeys((cost.cell.setting, cost.cell.arm) for cost in costs):
        same = [cost for cost in costs if (cost.cell.setting, cost.cell.arm) == (setting, arm)]
        first = same[0]
        whole = first.steps * first.cell.config.batch_size / first.pictures_per_second / 60
        states = [cost.state for cost in same]
        table.add_row(
            setting,
            arm,
            ",".join(str(cost.cell.seed) for cost in same),
            *(f"{number:,}" for number in (first.identities, first.pictures, first.steps)),
            f"{first.pictures_per_second:.0f}{'' if first.measured_on == 'runs' else '*'}",
            f"{whole:.1f}",
            f"{sum(cost.seconds for cost in same) / 60:.1f}",
            ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
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


def _figure(entry: Mapping[str, Any]) -> str:
    value, interval = entry.get("value"), entry.get("ci95")
    if value is None:
        return ""
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text}\n[dim]{100 * interval[0]:.1f} – {100 * interval[1]:.1f}[/]"


def _difference(entry: Mapping[str, Any]) -> str:
    value, interval = entry.get("difference"), entry.get("ci95")
    if value is None or interval is None:
        return ""
    return f"{100 * value:+.1f}\n[dim]{100 * interval[0]:+.1f} – {100 * interval[1]:+.1f}[/]"
