"""Quality scores on the terminal: error-versus-discard curves at a few shares, the area under them, differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vplface.cli.tables import with_interval
from vplface.console import Console, say
from vplface.evaluation.figure import Difference, Figure, Interval
from vplface.evaluation.metrics import point_label
from vplface.printable import printable_name
from vplface.tables import Table

_SHOWN = (0.0, 0.05, 0.1, 0.2, 0.3)


def show_quality(quality: Mapping[str, Any]) -> None:
    """Print the comparison of quality scores at each threshold."""
    share = quality["share"]
    for point, at in quality["at"].items():
        heads = [f"−{100 * each:g} %" for each in _SHOWN]
        table = Table(
            f"FNMR if the poorest pictures are discarded, at the threshold of {point_label(point)}, "
            f"{at['threshold']:.4f} (%)",
            ["score", *heads, f"mean to −{100 * share:g} %", "relative"],
        )
        for name, of in at["scores"].items():
            curve = of["curve"]
            rates = dict(zip(curve["share"], curve["fnmr"], strict=True))
            pauc, relative = Figure.from_json(of["pauc"]), Figure.from_json(of["relative"])
            table.add_row(
                printable_name(name),
                *(_rate(rates[each]) for each in _SHOWN),
                _with_ends(pauc, 100.0),
                _with_ends(relative, 1.0),
            )
        Console().print(table)
        for name, of in at["scores"].items():
            say(_false_matches(printable_name(name), of["curve"], share))
        for name, stored in at["differences"].items():
            difference = Difference.from_json(stored)
            first = next(iter(at["scores"]))
            clear = "" if difference.distinguishable else "; not significant"
            value, ends = 100 * (difference.value or 0.0), difference.interval
            between = "" if ends is None else f" (95 % interval {100 * ends[0]:+.2f} … {100 * ends[1]:+.2f})"
            say(f"{printable_name(name)} − {printable_name(first)}: {value:+.2f} points of mean FNMR{between}{clear}")
    say(
        "Mean: the area under the curve, divided by its range. Relative: to the FNMR of all pairs; 1 for a score that "
        "says nothing."
    )


def _false_matches(name: str, curve: Mapping[str, Any], share: float) -> str:
    """FMR of all pairs, and of those that are left at the largest share up to one."""
    place = sum(each <= share + 1e-9 for each in curve["share"]) - 1
    value, *ends = (curve[key][place] for key in ("fmr", "fmr_low", "fmr_high"))
    between = "" if None in ends else f" (95 % interval {100 * ends[0]:.4f} … {100 * ends[1]:.4f})"
    left = "—" if value is None else f"{100 * value:.4f}{between}"
    at = f"{100 * curve['share'][place]:g}"
    return f"{name}: FMR of the pairs left at −{at} % {left}, of all {100 * curve['fmr'][0]:.4f}"


def _with_ends(figure: Figure, scale: float) -> Any:
    if figure.value is None:
        return "—"
    ends: Interval | None = figure.interval
    return with_interval(f"{scale * figure.value:.2f}", ends and f"{scale * ends[0]:.2f} … {scale * ends[1]:.2f}")


def _rate(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.2f}"
