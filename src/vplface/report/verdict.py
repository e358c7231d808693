"""The verdict: one sentence that says which arm is ahead, as far as the paired intervals show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vplface.evaluation.figure import Difference, Interval, finite
from vplface.evaluation.metrics import ACCURACY, TAR, Metric, in_order
from vplface.report.arms import figure_of_run
from vplface.report.record import RunRecord

_ROUNDING = 1e-6


@dataclass(frozen=True)
class ArmDifference:
    """How the second arm differs from the first in a metric on a set, paired."""

    set_name: str
    metric: Metric
    value: float
    interval: Interval
    distinguishable: bool


def differences(
    runs: Sequence[RunRecord], comparison: Mapping[str, Mapping[str, Any]]
) -> tuple[list[ArmDifference], list[str]]:
    """The usable entries of a comparison of two arms, and why others are not used.

    An entry is used only if it is the difference of the two arms' own figures: a stale file, one written for another
    order of the arms or for other seeds, must not name the wrong winner. A difference counts as distinguishable only if
    its interval excludes 0 and the entry itself says so.
    """
    if len(runs) != 2:
        return [], ["comparison.json compares two arms and was not used for this page."] if comparison else []
    used, notes = [], []
    for set_name, entries in comparison.items():
        for key, entry in entries.items():
            if not isinstance(entry, Mapping):
                continue
            metric, difference = Metric.parse(key), Difference.from_json(entry)
            if difference.value is None:
                continue
            if difference.interval is None:
                notes.append(f"The paired difference of {metric.label} on {set_name} has no interval.")
                continue
            first, second = (figure_of_run(run, set_name, key).value for run in runs)
            if first is None or second is None or abs((second - first) - difference.value) > _ROUNDING:
                notes.append(
                    f"The paired difference of {metric.label} on {set_name} in comparison.json does not "
                    "belong to these two runs in this order, and was not used."
                )
                continue
            low, high = difference.interval
            distinguishable = (low > 0 or high < 0) and difference.distinguishable
            used.append(ArmDifference(set_name, metric, difference.value, difference.interval, distinguishable))
    used.sort(key=lambda d: (list(comparison).index(d.set_name), d.metric.order))
    return used, notes


def verdict(runs: Sequence[RunRecord], used: Sequence[ArmDifference]) -> str:
    """One sentence: the figure of a single run, or how two arms compare, or why that is not known.

    Differences of descriptive metrics do not count.
    """
    if len(runs) == 1:
        return _single(runs[0])
    used = [difference for difference in used if not difference.metric.descriptive]
    if not used:
        return (
            f"No paired difference of these {len(runs)} runs with an interval is available, so this page does not say "
            "which is better; overlap of the intervals of single runs does not decide it."
        )
    first, second = (run.name for run in runs)
    level = "95\N{NO-BREAK SPACE}%"
    if not any(difference.distinguishable for difference in used):
        if len(used) == 1:
            return (
                f"{first} and {second} are not statistically different: the {level} interval of their difference, "
                f"{_amount(used[0], second, first)}, contains 0."
            )
        return (
            f"{first} and {second} are not statistically different: the {level} intervals of all {len(used)} "
            "paired differences contain 0."
        )
    set_names = list(dict.fromkeys(difference.set_name for difference in used))
    clauses = [_on_set([d for d in used if d.set_name == name], first, second) for name in set_names]
    if len(clauses) == 1:
        return f"{clauses[0]}."
    return " ".join(f"On {name}, {clause}." for name, clause in zip(set_names, clauses, strict=True))


def cautions(runs: Sequence[RunRecord], used: Sequence[ArmDifference]) -> list[str]:
    """Cautions for a reader of the verdict."""
    said = []
    seeds = max((len(run.seeds) for run in runs), default=1)
    if seeds > 1:
        said.append(
            f"Figures are means over {seeds} seeds, their intervals resample people and seeds; curves, histograms, "
            f"strata and pictures are those of seed {runs[0].seeds[0]}."
        )
    elif len(runs) > 1:
        said.append(
            "Each arm is one training run: the intervals say how the figures depend on the people tested, not how they "
            "would change with another seed."
        )
    if len(used) > 1:
        said.append(
            f"{len(used)} differences are examined together; of twenty 95\N{NO-BREAK SPACE}% intervals, about one "
            "excludes 0 by chance alone."
        )
    for run in runs:
        reached, planned = run.training[-1]["step"] if run.training else None, finite(run.environment.get("steps"))
        if ended := run.validation and run.validation[-1].get("ended"):
            said.append(f"{run.name} ended at step {run.validation[-1]['step']:,}: {ended}.")
        elif reached is not None and planned is not None and reached < planned:
            said.append(f"{run.name} was stopped: its log ends at step {reached:,} of {planned:,.0f}.")
        elif run.truncated:
            said.append(f"The log of {run.name} ends within a line: the run was stopped while it was writing.")
    return said


def _single(run: RunRecord) -> str:
    for set_name, evaluation in run.evaluations.items():
        metrics = evaluation.get("metrics")
        if not isinstance(metrics, Mapping):
            continue
        for metric in in_order(metrics):
            figure = figure_of_run(run, set_name, metric)
            if figure.value is None:
                continue
            bounds = ""
            if ends := figure.interval:
                bounds = f" (95\N{NO-BREAK SPACE}% interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
            label = Metric.parse(metric).label
            sentence = f"{run.name} reaches {100 * figure.value:.1f} % {label}{bounds} on {set_name}"
            if metric == ACCURACY.name and ends and ends[0] <= 0.5 <= ends[1]:
                sentence += ", which is not statistically different from guessing"
            return sentence + "."
    return f"{run.name} has not been evaluated."


def _on_set(of_set: Sequence[ArmDifference], first: str, second: str) -> str:
    """Who is ahead in what: figures for the first metric of each side, the other metrics by name."""
    clauses = []
    for winner, sign in ((first, -1), (second, 1)):
        ahead = [d for d in of_set if d.distinguishable and (d.interval[0] * sign > 0) != d.metric.lower_is_better]
        if ahead:
            lead = ahead[0]
            towards = -sign if lead.metric.lower_is_better else sign
            clause = f"{winner} is ahead by {_points(lead)} of {lead.metric.label} {_bounds(lead, towards)}"
            clauses.append(clause + (f", and in {_metrics(ahead[1:])}" if ahead[1:] else ""))
    if unclear := [d for d in of_set if not d.distinguishable]:
        where = f"in {_metrics(unclear)} " if clauses else ""
        clauses.append(f"{where}the two are not statistically different")
    return "; ".join(clauses)


def _metrics(differences_: Sequence[ArmDifference]) -> str:
    """Metrics by name, those at several FARs taken together."""
    names = [difference.metric.label for difference in differences_]
    prefix = f"{TAR.label} "
    at_far = [name for name in names if name.startswith(prefix)]
    rates = [_joined([at_far[0], *(name.removeprefix(prefix) for name in at_far[1:])])] if at_far else []
    return _joined([*(name for name in names if name not in at_far), *rates])


def _points(difference: ArmDifference) -> str:
    amount = f"{100 * abs(difference.value):.{decimals(difference)}f}"
    return f"{amount} point" if float(amount) == 1 else f"{amount} points"


def _bounds(difference: ArmDifference, sign: int) -> str:
    ends = sorted(100 * sign * end for end in difference.interval)
    low, high = (f"{end:.{decimals(difference)}f}".replace("-", "−") for end in ends)
    return f"(95\N{NO-BREAK SPACE}% interval {low} to {high})"


def _amount(difference: ArmDifference, second: str, first: str) -> str:
    points = f"{100 * difference.value:+.{decimals(difference)}f}".replace("-", "−")
    return f"{points} points of {difference.metric.label} for {second} over {first} {_bounds(difference, 1)}"


def decimals(difference: ArmDifference) -> int:
    """Tenths of a point, or hundredths where the interval is less than a point wide."""
    return 1 if difference.interval[1] - difference.interval[0] >= 0.01 else 2


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
