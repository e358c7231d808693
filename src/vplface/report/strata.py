"""Strata of pairs by the quality of their pictures on a page: rates, the make-up of the tail, where pictures lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vplface.evaluation.figure import Figure, finite
from vplface.evaluation.metrics import point_label
from vplface.report.arms import arm, mapping
from vplface.report.chart import Chart, Scale, ink, short, span
from vplface.report.markup import Markup, tag
from vplface.report.plots import Plot, numbers
from vplface.report.record import RunRecord

WORDS = (
    "Some pictures of this set were degraded: the poor ones. All strata are judged at the threshold of the whole set. "
    "The tail at a false accept rate are the impostor pairs that its threshold accepts."
)
_OPACITY = (0.12, 0.45, 1.0)


def table(runs: Sequence[RunRecord], set_name: str) -> Markup:
    """Error rates and shares of each stratum at each threshold, in percent, for each arm."""
    rows = []
    for index, run in enumerate(runs):
        strata = _strata(run, set_name)
        for point, at in mapping(strata.get("at")).items():
            of_strata = mapping(mapping(at).get("strata"))
            for place, (name, of) in enumerate(of_strata.items()):
                first = [tag("td", point_label(point), rowspan=len(of_strata))] if place == 0 else []
                if place == 0 and len(runs) > 1:
                    first.insert(0, tag("th", arm(run, index), scope="row", rowspan=len(of_strata)))
                share = finite(mapping(mapping(strata.get("pairs")).get(name)).get("share"))
                figures = [Figure.from_json(mapping(mapping(of).get(kind))) for kind in ("fnmr", "fmr", "tail")]
                cells = [*map(measured_cell, figures), tag("td", "—" if share is None else short(share, percent=True))]
                rows.append(tag("tr", first, tag("td", name), cells))
    heads = ["Threshold of", "Pictures", "False non-match rate", "False match rate", "Share of the tail"]
    heads = [*([""] if len(runs) > 1 else []), *heads, "Share of all impostor pairs"]
    head = tag("thead", tag("tr", [tag("th", each, scope="col") for each in heads]))
    return tag("div", tag("table", head, tag("tbody", rows), class_="results"), class_="wide")


def plots(runs: Sequence[RunRecord], set_name: str) -> Iterator[Plot]:
    """The make-up of the tail, then where the pictures of each arm lie; none for a set without degraded pictures."""
    if (tail := _tail(runs, set_name)) is not None:
        yield tail
    for index, run in enumerate(runs):
        title = f"Where the poor pictures lie{f', {run.name}' if len(runs) > 1 else ''}"
        if (lie := _cosines(run, index, set_name, title)) is not None:
            yield lie


def _tail(runs: Sequence[RunRecord], set_name: str) -> Plot | None:
    """Bars of the shares of the strata: of all impostor pairs, and of those accepted at each threshold by each arm."""
    bars: list[tuple[str, int, list[tuple[str, float]]]] = []
    for index, run in enumerate(runs):
        strata = _strata(run, set_name)
        named = f", {run.name}" if len(runs) > 1 else ""
        if not bars and (pairs := mapping(strata.get("pairs"))):
            bars.append(("all impostor pairs", -1, [(name, _value(of, "share")) for name, of in pairs.items()]))
        for point, at in mapping(strata.get("at")).items():
            shares = [
                (name, _value(mapping(of).get("tail"), "value"))
                for name, of in mapping(mapping(at).get("strata")).items()
            ]
            if any(share for _, share in shares):
                bars.append((f"{point_label(point)}{named}", index, shares))
    if len(bars) < 2:
        return None
    left, right, height = 150.0, 500.0, 26.0
    scale = Scale(0.0, 1.0, left, right)
    marks: list[Markup] = []
    for row, (label, colour, shares) in enumerate(bars):
        top, start = 8.0 + height * row, 0.0
        shown = label if len(label) <= 22 else label[:21] + "…"
        marks.append(tag("text", shown, class_="tick", x=left - 10, y=top + 15, text_anchor="end"))
        for (name, share), opacity in zip(shares, _OPACITY, strict=False):
            at, to = float(scale(start)), float(scale(start + share))
            note = tag("title", f"{label}, {name}: {short(share, percent=True)}")
            bar = tag(
                "path", note, class_=f"part {ink(colour)}", fill_opacity=str(opacity),
                d=f"M{at:.1f} {top:.1f}H{to:.1f}v20H{at:.1f}Z",
            )  # fmt: skip
            marks.append(bar)
            start += share
    bottom = 8.0 + height * len(bars)
    for value in scale.ticks(4):
        text = short(value, percent=True)
        marks.append(tag("text", text, class_="tick", x=float(scale(value)), y=bottom + 14, text_anchor="middle"))
    label = f"Shares of the strata in the impostor tail on {set_name}"
    picture = tag("svg", marks, viewBox=f"0 0 520 {bottom + 24:.0f}", role="img", aria_label=label, class_="chart")
    return Plot(
        "Who makes the tail",
        "Impostor pairs by the quality of their pictures, from pale to full colour: both good, one poor, both poor. "
        "First bar: all impostor pairs; others: those accepted at each threshold.",
        picture,
    )


def _cosines(run: RunRecord, index: int, set_name: str, title: str) -> Plot | None:
    """Densities of the cosine of good and of poor pictures with the mean direction of the poor ones."""
    strata = _strata(run, set_name)
    found = mapping(strata.get("cosine"))
    edges, good, poor = (numbers(found.get(key)) for key in ("edges", "good", "poor"))
    if not len(poor) or not len(edges) == len(good) + 1 == len(poor) + 1:
        return None
    occupied = (good > 0) | (poor > 0)
    low, high = span([edges[:-1][occupied], edges[1:][occupied]])
    densities = [counts / max(counts.sum(), 1e-12) / np.diff(edges) for counts in (good, poor)]
    top = max(float(density.max()) for density in densities)
    chart = Chart(
        Scale(low, high),
        Scale(0.0, 1.12 * top or 1.0),
        "cosine with the mean direction of the poor pictures",
        f"Cosines with the mean direction of poor pictures, {run.name} on {set_name}",
        width=400.0,
        margin=(24, 18, 40, 34),
    )
    for density, colour, word in zip(densities, (-1, index), ("good", "poor"), strict=True):
        chart.hill(edges, density, colour, word)
    return Plot(title, _words(mapping(strata.get("pictures"))), chart.svg())


def _words(pictures: Mapping[str, Any]) -> str:
    norms = {name: Figure.from_json(mapping(mapping(of).get("norm"))) for name, of in pictures.items()}
    said = []
    for name, norm in norms.items():
        if norm.value is not None:
            ends = "" if norm.interval is None else f" ({norm.interval[0]:.3f} – {norm.interval[1]:.3f})"
            said.append(f"{norm.value:.3f}{ends} for {name} pictures")
    of_mean = f" Norm of the mean embedding, from pairs of different people: {', '.join(said)}." if said else ""
    return (
        "Densities, each of area 1. Recognisability is 1 − this cosine, at most 1 (Deng et al., 2021); the most wrong "
        f"pairs below name it.{of_mean}"
    )


def measured_cell(figure: Figure) -> Markup:
    """A cell of a table: a rate in percent, and below it its interval."""
    if figure.value is None:
        return tag("td", tag("span", "—", class_="value unclear"))
    ends = figure.interval and " – ".join(short(end, percent=True) for end in figure.interval)
    value = tag("span", short(figure.value, percent=True), class_="value")
    return tag("td", value, tag("span", ends, class_="range") if ends else None)


def _value(entry: object, key: str) -> float:
    return finite(mapping(entry).get(key)) or 0.0


def _strata(run: RunRecord, set_name: str) -> Mapping[str, Any]:
    return mapping(run.evaluations.get(set_name, {}).get("strata"))
