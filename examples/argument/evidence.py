"""The differences of docs/record.md as one picture: for each FAR a column, for each difference of TAR a row.

A bar is the 95 % interval over people, the thick line within it Student's interval over seeds, the dot the mean. In
colour where the interval over people excludes 0.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from figure import INK, SOFT, VPL, present
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RECORD = Path(__file__).parents[2] / "docs" / "record.md"
RATES = ("1e-2", "1e-3", "1e-4")
_NUMBER = r"([+−]?\d+\.\d)"
_INTERVAL = re.compile(rf"^(?:{_NUMBER} )?\({_NUMBER} – {_NUMBER}\)$")


@dataclass(frozen=True)
class Difference:
    """A difference of TAR in points, at one FAR."""

    section: str
    name: str
    rate: str
    mean: float
    people: list[float]
    seeds: list[float]


def differences(text: str) -> list[Difference]:
    """The differences that a page states: pairs of rows "A − B, people" and "A − B, seeds" of one table."""
    found = []
    for section, rates, rows in _tables(text):
        for label, people in rows.items():
            name, _, kind = label.rpartition(", ")
            seeds = rows.get(f"{name}, seeds")
            if kind != "people" or seeds is None:
                continue
            for column, rate in enumerate(rates):
                if rate in RATES:
                    _, *over_people = _read(people[column])
                    mean, *over_seeds = _read(seeds[column])
                    found.append(Difference(section, name, rate, mean, over_people, over_seeds))
    return found


def _tables(text: str) -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """Of each table: the heading above it, its rates, and its rows by their first cell."""
    section, rates, rows = "", [], {}
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            if not rates:
                rates = [cell.removeprefix("TAR at FAR ") for cell in cells]
            rows[first] = cells
            continue
        if rows:
            yield section, rates, rows
            rates, rows = [], {}
        if line.startswith("#"):
            section = line.lstrip("# ")


def _read(cell: str) -> list[float]:
    """The numbers of "+1.0 (+0.7 – +1.3)"; nan for a mean that is not there."""
    match = _INTERVAL.match(cell)
    if match is None:
        raise ValueError(f"no interval: {cell!r}")
    return [float(part.replace("−", "-")) if part else float("nan") for part in match.groups()]


def main(argv: list[str] | None = None) -> None:
    """Read, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, default=RECORD, help="read this (default: docs/record.md)")
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="draw the figure; without it, only the numbers")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    asked = parser.parse_args(argv)
    try:
        found = differences(asked.page.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{asked.page}: {error}")
    if not found:
        parser.error(f"{asked.page} states no differences: no rows 'A − B, people' and 'A − B, seeds'")
    present(asked, {"differences": [asdict(one) for one in found]}, _text(found), lambda figure: _draw(figure, found))


def _text(found: list[Difference]) -> str:
    width = max(len(one.name) for one in found)
    lines, section = [], None
    for one in found:
        if one.section != section:
            lines += ["", one.section]
            section = one.section
        low, high = one.people
        lines.append(f"  {one.name:{width}}  {one.rate}  {one.mean:+.1f} ({low:+.1f} – {high:+.1f})")
    return "\n".join(lines[1:])


def _draw(figure: Figure, found: list[Difference]) -> None:
    grouped = groupby(found, key=lambda one: (one.section, one.name))
    rows = [(*key, {one.rate: one for one in group}) for key, group in grouped]
    heights, labels, height, section = [], [], 0.0, None
    for of, _, _ in rows:
        if of != section:
            section, height = of, height - 1.6
            labels.append((height + 0.9, section))
        heights.append(height)
        height -= 1.0
    figure.set_size_inches(10.5, 0.9 - height * 0.24)
    axes = figure.subplots(1, len(RATES), sharex=True, sharey=True)
    for axis, rate in zip(axes, RATES, strict=True):
        _column(axis, rate, list(zip(heights, [by_rate for *_, by_rate in rows], strict=True)))
    axes[0].set_yticks(heights, [name for _, name, _ in rows])
    axes[0].set_ylim(height, 0)
    for at, label in labels:
        axes[0].annotate(
            label, (0, at), xycoords=axes[0].get_yaxis_transform(), xytext=(-6, 0), textcoords="offset points",
            ha="right", va="center", weight="bold", annotation_clip=False,
        )  # fmt: skip


def _column(axis: Axes, rate: str, rows: list[tuple[float, dict[str, Difference]]]) -> None:
    axis.axvline(0, color=SOFT, linewidth=1)
    for height, of in rows:
        one = of[rate]
        colour = SOFT if one.people[0] <= 0 <= one.people[1] else VPL
        axis.plot(one.people, [height] * 2, color=colour, linewidth=1.2)
        axis.plot(one.seeds, [height] * 2, color=colour, linewidth=3.2, alpha=0.55, solid_capstyle="butt")
        axis.plot(one.mean, height, "o", color=colour, markersize=4.5)
    axis.set_title(f"TAR at FAR {rate}")
    axis.set_xlabel("difference, points", color=INK)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


if __name__ == "__main__":
    main()
