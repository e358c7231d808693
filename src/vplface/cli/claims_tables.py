"""Stored thresholds, claims, hard impostors and ratios between groups on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vplface.cli.tables import with_interval
from vplface.console import Console, say
from vplface.evaluation.claims import Needed
from vplface.evaluation.figure import Figure
from vplface.evaluation.metrics import point_label
from vplface.printable import printable_name
from vplface.tables import Table

_RATIOS = {"max_over_min": "max/min", "max_over_geometric_mean": "max/geometric mean"}
_MOST_GROUPS = 8
"""The most groups whose false match rates across each other are listed; the JSON object has all."""


def show_promise(promise: Mapping[str, Any]) -> None:
    """Print the error rates at a stored threshold, and whether the promised false accept rate holds."""
    table = Table(
        f"at the stored threshold {promise['threshold']:.4f} (%)",
        ["rate", "errors", "pairs", "value", "95 % interval", "at most (one-sided 95 %)"],
    )
    for kind in ("fmr", "fnmr"):
        rate, form = promise[kind], _form(kind)
        table.add_row(
            kind.upper(),
            f"{rate['errors']:,}",
            f"{rate['pairs']:,}",
            format(100 * rate["value"], form),
            _ends(rate["ci95"], form),
            format(100 * rate["upper95"], form),
        )
    Console().print(table)
    say(promise["sentence"])


def claims_sentence(claims: Mapping[str, Any], people: int) -> str:
    """The claims that a set supports, and how many people others need."""
    first = (
        f"Claims: {people:,} people ({claims['independent_comparisons']:,g} independent comparisons) support a FAR of "
        f"{claims['smallest_far']:.2g} and above, if they show no false match"
    )
    more = [f"{float(far):g} needs {wanted:,} people" for far, wanted in claims["people_needed"].items()]
    return "; ".join([first, *more]) + "."


def show_hard(hard: Mapping[str, Any]) -> None:
    """Print how rates and thresholds move from all impostors to the nearest strangers."""
    table = Table(
        f"each person and the {hard['k']} nearest strangers (%)",
        ["threshold of", "threshold", "FMR", "keeps the FAR", "FNMR there"],
    )
    for point, at in hard["at"].items():
        moved, fmr = at["moved"], at["fmr"]
        there = Figure.from_json(moved["fnmr"])
        table.add_row(
            point_label(point),
            f"{at['threshold']:.4f}",
            with_interval(format(100 * fmr["value"], ".4f"), _ends(fmr["ci95"], ".4f")),
            "—" if moved["threshold"] is None else f"{moved['threshold']:.4f}",
            "—"
            if there.value is None
            else with_interval(f"{100 * there.value:.2f}", there.interval and _ends(there.interval)),
        )
    Console().print(table)
    say(
        f"{hard['pairs_of_people']:,} pairs of people, {hard['impostors']:,} impostor pairs; nearest by the "
        f"{hard['nearest_by']}. Among more people the nearest strangers are nearer."
    )
    for reason in dict.fromkeys(at["moved"].get("reason") for at in hard["at"].values()):
        if reason:
            say(f"Among hard impostors: {reason}")


def show_ratios(at: Mapping[str, Any]) -> None:
    """Print false match rates across groups, the ratios between groups, and FNMR by the years between pictures."""
    console = Console()
    names = list(at["rates"])
    if across := at.get("across"):
        if len(names) <= _MOST_GROUPS:
            console.print(_across(at["rates"], across))
        else:
            say(f"FMR across {len(names)} groups: in the JSON object, under across")
    for kind, ratios in at.get("ratios", {}).items():
        for name, stored in (ratios or {}).items():
            ratio = Figure.from_json(stored)
            ends = "—" if ratio.interval is None else f"{ratio.interval[0]:.2f} … {ratio.interval[1]:.2f}"
            value = "—" if ratio.value is None else f"{ratio.value:.2f} (95 % interval {ends})"
            say(f"{kind.upper()} {_RATIOS[name]}: {value}{_because(ratio)}")
    if gaps := at.get("age_gap"):
        table = Table("FNMR by years between the two pictures (%)", ["between", "people", "pairs", "FNMR", "interval"])
        for years, of in gaps.items():
            rate = Figure.from_json(of["fnmr"])
            assert rate.value is not None
            ends = "—" if rate.interval is None else _ends(rate.interval)
            table.add_row(years, f"{of['identities']:,}", f"{of['genuine']:,}", f"{100 * rate.value:.2f}", ends)
        console.print(table)


def show_needed(claims: list[Needed]) -> None:
    """Print how many people claims need."""
    table = Table(
        "a claim of a FAR at 95 % confidence, if no false match is seen",
        ["FAR", "independent comparisons", "people", "at the very least"],
    )
    for claim in claims:
        table.add_row(
            f"{claim.far:g}",
            f"{claim.comparisons:,}",
            f"{claim.people:,}",
            f"{claim.fewest_people:,} people, {claim.fewest_pairs:,} pairs",
        )
    Console().print(table)
    say(
        "Independent comparisons: pairs in which nobody occurs twice, ln 0.05 / ln(1 − FAR) of them, about 3/FAR. "
        "n people give n/2, regardless of who resembles whom and of the number of pictures."
    )
    say(
        "At the very least: if all n(n − 1)/2 pairs of people were independent of each other. They are not where one "
        "person resembles many."
    )
    say(
        "The people are like those whom the threshold will meet, and were not used to choose it. With false matches "
        "more are needed: vplface evaluate --operating-point measures it."
    )


def _across(rates: Mapping[str, Any], across: list[Mapping[str, Any]]) -> Table:
    names = list(rates)
    between = {frozenset(entry["groups"]): entry["fmr"] for entry in across}
    between |= {frozenset([name]): of["fmr"] for name, of in rates.items()}
    table = Table("FMR within and across groups (%)", ["", *map(printable_name, names)])
    for row in names:
        cells = []
        for column in names:
            rate = Figure.from_json(between.get(frozenset([row, column]), {}))
            cells.append("—" if rate.value is None else format(100 * rate.value, ".4f"))
        table.add_row(printable_name(row), *cells)
    return table


def _because(figure: Figure) -> str:
    return f", {reason}" if (reason := figure.details.get("reason")) else f", {figure.details.get('highest')} highest"


def _form(kind: str) -> str:
    return ".4f" if kind == "fmr" else ".2f"  # false matches are counted in ten-thousandths


def _ends(ends: Any, form: str = ".2f") -> str:
    return f"{format(100 * ends[0], form)} … {format(100 * ends[1], form)}"
