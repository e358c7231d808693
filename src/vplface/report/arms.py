"""Names, colours and figures of the runs on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vplface.evaluation.figure import Figure
from vplface.report.chart import ink
from vplface.report.markup import Markup, tag
from vplface.report.record import RunRecord


def legend(runs: Sequence[RunRecord]) -> Markup | None:
    """Names and colours of the arms; None for one."""
    if len(runs) < 2:
        return None
    return tag("ul", [tag("li", swatch(index), run.name) for index, run in enumerate(runs)], class_="arms")


def arm(run: RunRecord, index: int) -> Markup:
    """Name of an arm, with its colour."""
    return tag("span", swatch(index), run.name, class_="armname")


def swatch(index: int) -> Markup:
    """Colour of an arm, as a small square."""
    return tag("span", class_=f"swatch {ink(index)}")


def set_names(runs: Sequence[RunRecord]) -> list[str]:
    """Evaluation sets of all runs together."""
    return list(dict.fromkeys(name for run in runs for name in run.evaluations))


def figure_of_run(run: RunRecord, set_name: str, metric: str) -> Figure:
    """The figure of a run for a metric on a set; without a value if it has none."""
    return Figure.from_json(mapping(mapping(run.evaluations.get(set_name, {}).get("metrics")).get(metric)))


def distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs whose names differ: two folders of one name get the name of their parent."""
    names = [run.name for run in runs]
    distinct: list[RunRecord] = []
    for run in runs:
        name = run.name if names.count(run.name) == 1 else f"{run.folder.resolve().parent.name}/{run.name}"
        taken = [other.name for other in distinct]
        attempts: Iterator[str] = (name if k == 1 else f"{name} ({k})" for k in range(1, len(runs) + 1))
        distinct.append(replace(run, name=next(attempt for attempt in attempts if attempt not in taken)))
    return distinct


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: files may hold anything."""
    return value if isinstance(value, Mapping) else {}


def capitalised(words: str) -> str:
    """The text with a capital first letter."""
    return words[:1].upper() + words[1:]
