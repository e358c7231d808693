"""The table of figures: all arms, their intervals, and the paired differences to the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from vplface.data.degrade import described
from vplface.evaluation.figure import Figure, finite
from vplface.evaluation.metrics import Metric, in_order
from vplface.report import plots
from vplface.report.arms import arm, capitalised, figure_of_run, mapping, set_names
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.provenance import plain
from vplface.report.record import RunRecord
from vplface.report.verdict import ArmDifference, decimals

Compared: TypeAlias = "tuple[RunRecord, Sequence[ArmDifference]]"
"""An arm, and how it differs from the first."""


def results(runs: Sequence[RunRecord], compared: Sequence[Compared]) -> Markup:
    """A table of figures for each set."""
    tables = [results_table(runs, set_name, compared) for set_name in set_names(runs)]
    if not tables:
        tables = [tag("p", "No evaluation was found in these runs: `vplface evaluate` measures one.", class_="note")]
    return join(tag("h2", "Results"), tables)


def results_table(runs: Sequence[RunRecord], set_name: str, compared: Sequence[Compared]) -> Markup:
    """The figures of all arms on one set, and below them the paired differences.

    Descriptive figures of several arms have a table of their own; those of one arm are with its strata.
    """
    named = {metric for run in runs for metric in mapping(run.evaluations.get(set_name, {}).get("metrics"))}
    metrics = [
        metric
        for metric in in_order(named)
        if any(figure_of_run(run, set_name, metric).value is not None for run in runs)
    ]
    judging, descriptive = (
        [metric for metric in metrics if Metric.parse(metric).descriptive == kind] for kind in (False, True)
    )
    beside = descriptive if len(runs) > 1 else []
    trained = {"Coverage reached": coverage, "Training time": training_time}
    trained = {head: value for head, value in trained.items() if any(value(run) for run in runs)}
    return join(
        tag("h3", set_name),
        _table(runs, set_name, compared, judging, trained),
        tag("p", "Percent, with 95\N{NO-BREAK SPACE}% intervals. " + protocol_sentence(runs, set_name), class_="note"),
        [tag("p", text, class_="note") for text in _unmeasured(runs, set_name, named.difference(metrics))],
        _table(runs, set_name, compared, beside, {}) if beside else None,
        tag("p", "Percent. No model is better or worse by these figures.", class_="note") if beside else None,
    )


def _table(
    runs: Sequence[RunRecord],
    set_name: str,
    compared: Sequence[Compared],
    metrics: Sequence[str],
    trained: Mapping[str, Callable[[RunRecord], str | None]],
) -> Markup:
    """A column for each metric, and for each value of the training by its head."""
    cells = {(run.name, metric): figure_of_run(run, set_name, metric) for run in runs for metric in metrics}
    rows: list[Markup] = []
    for index, run in enumerate(runs):
        row: list[Child] = [tag("th", arm(run, index), scope="row")]
        for metric in metrics:
            of_column = [cells[other.name, metric] for other in runs]
            row.append(tag("td", _measured(cells[run.name, metric], of_column, index)))
        row += [tag("td", value(run) or "—") for value in trained.values()]
        rows.append(tag("tr", row))
    for other, used in compared:
        of_set = {d.metric.key: d for d in used if d.set_name == set_name and d.metric.key in metrics}
        if of_set:
            reach = 1.05 * max(max(abs(end) for end in d.interval) for d in of_set.values())
            note = tag("span", "paired, same pairs", class_="range")
            row = [tag("th", f"{other.name} − {runs[0].name}", note, scope="row")]
            row += [tag("td", _paired(of_set[metric], reach) if metric in of_set else "—") for metric in metrics]
            rows.append(tag("tr", row, [tag("td") for _ in trained], class_="paired"))
    heads = ["", *(capitalised(Metric.parse(metric).label) for metric in metrics), *trained]
    head = tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads]))
    return tag("div", tag("table", head, tag("tbody", rows), class_="results"), class_="wide")


def _unmeasured(runs: Sequence[RunRecord], set_name: str, metrics: Collection[str]) -> list[str]:
    """Reasons why metrics that no arm has, and that judge a model, are left out."""
    said = []
    for metric in (metric for metric in in_order(metrics) if not Metric.parse(metric).descriptive):
        reasons = [figure_of_run(run, set_name, metric).details.get("reason") for run in runs]
        if known := dict.fromkeys(str(reason) for reason in reasons if reason):
            said.append(f"{capitalised(Metric.parse(metric).label)}: {' '.join(known)}.")
    return said


def _measured(figure: Figure, of_column: Sequence[Figure], index: int) -> Child:
    if figure.value is None:
        reason = figure.details.get("reason")
        return [_value(None), tag("span", str(reason), class_="reason") if reason else None]
    intervals = [other.interval for other in of_column if other.interval]
    ends = [end for interval in intervals for end in interval]
    values = [other.value for other in of_column if other.value is not None]
    low, high = min([*values, *ends]), max([*values, *ends])
    digits = 1 if any(end - start > 0.01 for start, end in intervals) else 2
    shown = figure.interval and " – ".join(f"{100 * end:.{digits}f}" for end in figure.interval)
    return [
        _value(f"{100 * figure.value:.{digits}f}"),
        tag("span", shown, class_="range") if shown else None,
        plots.whisker(figure.value, figure.interval, low, high, index)
        if len(of_column) > 1 and intervals and high > low
        else None,
    ]


def _paired(difference: ArmDifference, reach: float) -> Child:
    digits = decimals(difference)
    value, *ends = (f"{100 * x:+.{digits}f}".replace("-", "−") for x in (difference.value, *difference.interval))
    return [
        tag("span", value, class_="value" if difference.distinguishable else "value unclear"),
        tag("span", f"{ends[0]} … {ends[1]}", class_="range"),
        plots.difference_whisker(difference.interval, difference.value, reach) if reach > 0 else None,
        tag("span", "excludes 0" if difference.distinguishable else "contains 0", class_="range"),
    ]


def _value(text: str | None) -> Markup:
    return tag("span", text or "—", class_="value" if text else "value unclear")


def protocol_sentence(runs: Sequence[RunRecord], set_name: str) -> str:
    """Sentences about the protocol of the figures, as far as all arms agree on it."""
    protocols = [protocol for run in runs if (protocol := mapping(run.evaluations.get(set_name, {}).get("protocol")))]
    if not protocols:
        return ""
    shared = {
        key: _counted(value)
        for key, value in protocols[0].items()
        if all(key in p and p[key] == value for p in protocols)
    }
    sentences = (
        ("kind", "Question: {kind}"),
        ("degrade", "degraded pictures: {degrade}"),
        ("identities", "{identities} people"),
        ("genuine", "{genuine} genuine pairs"),
        ("impostors", "{impostors} impostor pairs"),
        ("threshold_from", "threshold chosen on {threshold_from}"),
        ("accuracy_rule", "accuracy rule {accuracy_rule}"),
        ("far_rule", "FAR rule {far_rule}"),
        ("flip", "flip {flip}"),
        ("bootstrap", "intervals from {bootstrap} resamples of the people"),
    )
    said = [words.format(**{key: shared[key]}) for key, words in sentences if key in shared]
    differ = (
        "" if all(protocol == protocols[0] for protocol in protocols) else " The arms' protocols differ: see below."
    )
    return f"{capitalised('; '.join(said))}.{differ}" if said else differ.strip()


def _counted(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{_counted(value.get('pictures'))}, {described(value)}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(value)


def coverage(run: RunRecord) -> str | None:
    """The last logged coverage of a run that has a memory, in percent."""
    reached = coverage_reached(run)
    return None if reached is None else f"{100 * reached:.1f}\N{NO-BREAK SPACE}%"


def coverage_reached(run: RunRecord) -> float | None:
    """The last logged coverage of a run that has a memory, from 0 to 1."""
    reached = run.last("coverage")
    return None if reached == 0 and not run.config.get("variational") else reached


def training_time(run: RunRecord) -> str | None:
    """The time spent in training steps, from their logged speed: pauses and validation do not count."""
    steps, speed = run.series("pictures_per_second")
    batch = finite(run.config.get("batch_size"))
    if batch is None or not (speed > 0).any():
        return None
    taken = np.diff(steps, prepend=0.0)
    counted = speed > 0
    minutes, rest = divmod(round(float((taken[counted] * batch / speed[counted]).sum())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
