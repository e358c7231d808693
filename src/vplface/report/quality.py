"""Error-versus-discard curves of quality scores on a page, and the area under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vplface.evaluation.figure import Figure, finite
from vplface.evaluation.metrics import point_label
from vplface.report.arms import arm, mapping, swatch
from vplface.report.chart import Chart, Scale, span
from vplface.report.markup import Markup, tag
from vplface.report.plots import Plot
from vplface.report.record import RunRecord
from vplface.report.strata import measured_cell

WORDS = (
    "What is left of the false non-matches if the poorest pictures are discarded, lowest quality first, and the "
    "threshold stays. The steeper a curve falls, the better the score tells which pictures fail. A score that says "
    "nothing stays level on average."
)


def table(runs: Sequence[RunRecord], set_name: str) -> Markup | None:
    """The mean FNMR of each score at each threshold; None where no quality was measured."""
    rows, share = [], 0.0
    for index, run, quality in _measured(runs, set_name):
        share = finite(quality.get("share")) or 0.0
        for point, at in mapping(quality.get("at")).items():
            scores = mapping(mapping(at).get("scores"))
            for place, (name, of) in enumerate(scores.items()):
                first = [tag("td", point_label(point), rowspan=len(scores))] if place == 0 else []
                if place == 0 and len(runs) > 1:
                    first.insert(0, tag("th", arm(run, index), scope="row", rowspan=len(scores)))
                cells = [measured_cell(Figure.from_json(mapping(mapping(of).get(key)))) for key in ("pauc", "relative")]
                whole = measured_cell(Figure.from_json(mapping(mapping(at).get("fnmr"))))
                matches = measured_cell(_fmr_left(mapping(mapping(of).get("curve")), share))
                rows.append(tag("tr", first, tag("td", name), whole, cells, matches))
    if not rows:
        return None
    heads = [*([""] if len(runs) > 1 else []), "Threshold of", "Quality score", "FNMR of all pairs"]
    heads += [f"Mean FNMR while 0 to {100 * share:g} % are discarded", "Relative to all pairs"]
    heads.append(f"FMR of the pairs left without {100 * share:g} %")
    head = tag("thead", tag("tr", [tag("th", each, scope="col") for each in heads]))
    return tag("div", tag("table", head, tag("tbody", rows), class_="results"), class_="wide")


def plots(runs: Sequence[RunRecord], set_name: str) -> Iterator[Plot]:
    """A plot for each arm and threshold, with a curve for each score."""
    for _, run, quality in _measured(runs, set_name):
        for point, at in mapping(quality.get("at")).items():
            of_arm = f", {run.name}" if len(runs) > 1 else ""
            plot = _plot(mapping(at), f"FNMR over discarded pictures, {point_label(point)}{of_arm}", set_name)
            if plot is not None:
                yield plot


def _plot(at: Mapping[str, Any], title: str, set_name: str) -> Plot | None:
    curves = {}
    for name, of in mapping(at.get("scores")).items():
        curve = mapping(mapping(of).get("curve"))
        drawn = tuple(_numbers(curve.get(key)) for key in ("share", "fnmr", "low", "high"))
        if len(drawn[0]) and len({len(each) for each in drawn}) == 1:
            curves[name] = drawn
    if not curves:
        return None
    low, high = span([each for drawn in curves.values() for each in drawn[1:]], at_zero=True)
    longest = max(float(drawn[0][-1]) for drawn in curves.values())
    chart = Chart(
        Scale(0.0, longest),
        Scale(max(0.0, low), high),
        "share of the pictures that is discarded",
        f"{title} on {set_name}",
        percent=True,
        width=480.0,
        height=270.0,
        margin=(14, 50, 44, 52),
    )
    whole = finite(mapping(at.get("fnmr")).get("value")) or 0.0
    chart.line(np.array([0.0, longest]), np.array([whole, whole]), -1, dashed=True)
    for colour, (share, fnmr, below, above) in enumerate(curves.values()):
        known = np.isfinite(below) & np.isfinite(above)
        chart.area(share[known], below[known], above[known], colour)
        chart.line(share, fnmr, colour, end=True)
    names = [tag("span", swatch(colour), name, class_="armname") for colour, name in enumerate(curves)]
    parts = [part for name in names for part in (name, ", ")][:-1]
    note = tag("span", "95 % intervals over people as bands; dashed: no picture discarded. Scores: ", parts, ".")
    return Plot(title, note, chart.svg())


def _fmr_left(curve: Mapping[str, Any], share: float) -> Figure:
    """The FMR at the largest share of a curve up to one, with its interval."""
    shares = _numbers(curve.get("share"))
    place = int((shares <= share + 1e-9).sum()) - 1
    parts = [_numbers(curve.get(key)) for key in ("fmr", "fmr_low", "fmr_high")]
    if place < 0 or any(len(part) != len(shares) for part in parts):
        return Figure(None)
    value, low, high = (finite(float(part[place])) for part in parts)
    return Figure(value, None if low is None or high is None else (low, high))


def _numbers(values: object) -> Float[np.ndarray, " k"]:
    """The values of a list, NaN for those that are not finite numbers; empty if it is not a list."""
    found = [finite(value) for value in values] if isinstance(values, list) else []
    return np.array([np.nan if value is None else value for value in found], np.float64)


def _measured(runs: Sequence[RunRecord], set_name: str) -> Iterator[tuple[int, RunRecord, Mapping[str, Any]]]:
    for index, run in enumerate(runs):
        if quality := mapping(run.evaluations.get(set_name, {}).get("quality")):
            yield index, run, quality
