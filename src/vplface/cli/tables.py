"""Results on the terminal: a short table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vplface.report.verdict import metric_name, metric_order
from vplface.study import Study


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
