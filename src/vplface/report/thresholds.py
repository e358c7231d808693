"""Stored thresholds, hard impostors, claims and false matches across groups on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vplface.evaluation.figure import Figure, finite
from vplface.evaluation.metrics import point_label
from vplface.report.arms import arm, mapping
from vplface.report.chart import short
from vplface.report.markup import Markup, join, tag
from vplface.report.record import RunRecord
from vplface.report.strata import measured_cell

_RATIOS = {"max_over_min": "highest over lowest", "max_over_geometric_mean": "highest over geometric mean"}
_MOST_GROUPS = 12


def promise(runs: Sequence[RunRecord], set_name: str) -> Markup | None:
    """The error rates at a stored threshold and whether the promise holds; None without one."""
    rows: list[Markup] = []
    said: list[Markup] = []
    for index, run, found in _measured(runs, set_name, "promise"):
        said.append(tag("p", str(found.get("sentence")), class_="verdict"))
        for kind, name in (("fmr", "False match rate"), ("fnmr", "False non-match rate")):
            rate = mapping(found.get(kind))
            first = _first(runs, run, index) if kind == "fmr" else [tag("td")] * (len(runs) > 1)
            counts = [tag("td", f"{finite(rate.get(key)) or 0:,.0f}") for key in ("errors", "pairs")]
            rows.append(tag("tr", first, tag("td", name), *counts, _cell(rate), tag("td", _percent(rate, "upper95"))))
    if not rows:
        return None
    heads = ["At the stored threshold", "Errors", "Pairs", "Rate, 95 % interval", "At most, one-sided 95 %"]
    return join(
        tag("h3", "The stored threshold on these people"),
        said,
        _table(runs, heads, rows),
        tag(
            "p",
            "The interval is estimated from the errors that were seen. The bound is not: where some people resemble "
            "everybody, a set may lack them by chance, so that n people count as n/2 independent comparisons.",
            class_="note",
        ),
    )


def hard(runs: Sequence[RunRecord], set_name: str) -> Markup | None:
    """How rates and thresholds move from all impostors to the nearest strangers; None if that was not measured."""
    rows = []
    words = ""
    for index, run, found in _measured(runs, set_name, "hard"):
        words = (
            f"Each person and the {finite(found.get('k')) or 0:.0f} nearest strangers: "
            f"{finite(found.get('pairs_of_people')) or 0:,.0f} pairs of people, "
            f"{finite(found.get('impostors')) or 0:,.0f} impostor pairs. Nearest by the {found.get('nearest_by')}. "
            "Among more people the nearest strangers are nearer."
        )
        for place, (point, at) in enumerate(mapping(found.get("at")).items()):
            moved = mapping(mapping(at).get("moved"))
            first = _first(runs, run, index) if place == 0 else [tag("td")] * (len(runs) > 1)
            cells = [
                tag("td", point_label(point)),
                tag("td", _number(at, "threshold")),
                _cell(mapping(mapping(at).get("fmr"))),
                _cell(mapping(mapping(at).get("fnmr"))),
                tag("td", _number(moved, "threshold")),
                _cell(mapping(moved.get("fnmr"))),
            ]
            rows.append(tag("tr", first, cells))
    if not rows:
        return None
    heads = ["Threshold of", "Threshold", "FMR of hard impostors", "FNMR", "Threshold that keeps the FAR", "FNMR there"]
    return join(tag("h3", "Hard impostors"), tag("p", words, class_="note"), _table(runs, heads, rows))


def claims(runs: Sequence[RunRecord], set_name: str) -> Markup | None:
    """The claims that the set supports; None where the evaluation does not say."""
    protocol = mapping(runs[0].evaluations.get(set_name, {}).get("protocol"))
    found, people = mapping(protocol.get("claims")), finite(protocol.get("identities"))
    smallest, comparisons = (finite(found.get(key)) for key in ("smallest_far", "independent_comparisons"))
    if smallest is None or comparisons is None or people is None:
        return None
    needed = mapping(found.get("people_needed"))
    more = [f"a FAR of {far} needs {finite(wanted) or 0:,.0f} people" for far, wanted in needed.items()]
    words = (
        f"These {people:,.0f} people, {comparisons:,g} independent comparisons, support the claim of a FAR of "
        f"{smallest:.2g} and above, if they show no false match"
    )
    return tag("p", "; ".join([words, *more]) + ".", class_="note")


def across(runs: Sequence[RunRecord], set_name: str) -> Iterator[Markup]:
    """False match rates within and across groups, and the ratios between groups, at each common threshold."""
    for index, run, found in _measured(runs, set_name, "groups"):
        for point, at in mapping(found.get("at")).items():
            rates, pairs = mapping(mapping(at).get("rates")), mapping(at).get("across")
            if isinstance(pairs, list) and 1 < len(rates) <= _MOST_GROUPS:
                between = {
                    frozenset(map(str, entry["groups"])): entry.get("fmr")
                    for entry in map(mapping, pairs)
                    if isinstance(entry.get("groups"), list)
                }
                between |= {frozenset([name]): mapping(of).get("fmr") for name, of in rates.items()}
                heads = [f"FMR at the threshold of {point_label(point)}", *rates]
                rows = [
                    tag(
                        "tr",
                        _first(runs, run, index),
                        tag("td", row),
                        [_cell(mapping(between.get(frozenset([row, column])))) for column in rates],
                    )
                    for row in rates
                ]
                yield _table(runs, heads, rows)
            if sentences := list(_ratios(mapping(mapping(at).get("ratios")))):
                yield tag("p", f"At the threshold of {point_label(point)}: {'; '.join(sentences)}.", class_="note")
            if gaps := mapping(mapping(at).get("age_gap")):
                heads = [f"FNMR at the threshold of {point_label(point)}", *gaps]
                cells = [_cell(mapping(mapping(of).get("fnmr"))) for of in gaps.values()]
                row = tag("tr", _first(runs, run, index), tag("td", "by years between the two pictures"), cells)
                yield _table(runs, heads, [row])


def _ratios(ratios: Mapping[str, Any]) -> Iterator[str]:
    for kind, of_kind in ratios.items():
        for key, name in _RATIOS.items():
            ratio = Figure.from_json(mapping(mapping(of_kind).get(key)))
            if ratio.value is not None:
                ends = ratio.interval and f" (95 % interval {ratio.interval[0]:.2f} – {ratio.interval[1]:.2f})"
                yield f"{kind.upper()} {name} {ratio.value:.2f}{ends or ', too few errors for an interval'}"


def _measured(
    runs: Sequence[RunRecord], set_name: str, part: str
) -> Iterator[tuple[int, RunRecord, Mapping[str, Any]]]:
    for index, run in enumerate(runs):
        if found := mapping(run.evaluations.get(set_name, {}).get(part)):
            yield index, run, found


def _table(runs: Sequence[RunRecord], heads: Sequence[str], rows: Sequence[Markup]) -> Markup:
    names = [*([""] if len(runs) > 1 else []), *heads]
    head = tag("thead", tag("tr", [tag("th", each, scope="col") for each in names]))
    return tag("div", tag("table", head, tag("tbody", rows), class_="results"), class_="wide")


def _first(runs: Sequence[RunRecord], run: RunRecord, index: int) -> list[Markup]:
    return [tag("th", arm(run, index), scope="row")] if len(runs) > 1 else []


def _cell(stored: Mapping[str, Any]) -> Markup:
    return measured_cell(Figure.from_json(stored))


def _percent(stored: Mapping[str, Any], key: str) -> str:
    value = finite(stored.get(key))
    return "—" if value is None else short(value, percent=True)


def _number(stored: object, key: str) -> str:
    value = finite(mapping(stored).get(key))
    return "—" if value is None else f"{value:.4f}"
