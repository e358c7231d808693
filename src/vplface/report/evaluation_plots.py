"""The figures of evaluations: numbers in, inline SVG out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vplface.evaluation.figure import Figure, finite
from vplface.evaluation.metrics import ACCURACY, TAR, Metric, point_label
from vplface.report.arms import mapping
from vplface.report.chart import Chart, Scale, ink, short, span
from vplface.report.markup import Markup, tag
from vplface.report.plots import Plot, numbers
from vplface.report.record import RunRecord


def roc(runs: Sequence[RunRecord], set_name: str, quoted: Mapping[str, Mapping[str, Figure]]) -> Plot | None:
    """TAR over FAR (logarithmic) of all arms on one set, with the intervals of the quoted operating points.

    Args:
        runs: the arms.
        set_name: the evaluation set.
        quoted: {arm name: {metric: figure}}; TAR at FAR is marked.
    """
    drawn = []
    for index, run in enumerate(runs):
        curve = mapping(mapping(run.evaluations.get(set_name, {}).get("curves")).get("roc"))
        far, tar = numbers(curve.get("far")), numbers(curve.get("tar"))
        if len(far) == len(tar) and (far > 0).any():
            order = np.lexsort((tar, far))
            drawn.append((index, far[order], tar[order]))
    if not drawn:
        return None
    bands = _bands(runs, set_name)
    points = []
    for index, _, _ in drawn:
        for metric, figure in quoted.get(runs[index].name, {}).items():
            far_quoted = Metric.parse(metric).far
            if far_quoted is not None and figure.value is not None:
                points.append((index, far_quoted, figure.value, figure.interval))
    lowest = min([float(far[far > 0].min()) for _, far, _ in drawn] + [0.7 * point[1] for point in points])
    lowest = min(max(lowest, 1e-7), 0.1)
    floor = min([float(np.interp(lowest, far, tar)) for _, far, tar in drawn] + [p[3][0] for p in points if p[3]])
    floor = min([floor, *(float(low[far >= lowest].min(initial=1.0)) for _, far, low, _ in bands)])
    air = 0.1 * (1.0 - floor) or 0.01
    chart = Chart(
        Scale(lowest, 1.0, log=True),
        Scale(max(0.0, floor - air), 1.0 + 0.2 * air),
        "false accept rate",
        f"ROC of {', '.join(runs[index].name for index, _, _ in drawn)} on {set_name}",
        percent=True,
        width=640.0,
        height=400.0,
        margin=(14, 24, 44, 52),
    )
    for index, far, low, high in bands:
        seen = far >= lowest
        chart.area(far[seen], low[seen], high[seen], index)
    for index, far, tar in drawn:
        first = float(tar[far <= lowest].max()) if (far <= lowest).any() else 0.0
        seen = far > lowest
        corner_far = np.concatenate([[lowest], np.repeat(far[seen], 2), [1.0]])
        corner_tar = np.concatenate([[first, first], np.repeat(tar[seen], 2)])
        chart.line(corner_far, corner_tar, index)
    for index, far_quoted, value, ends in points:
        shift = 5.0 * (index - (len(runs) - 1) / 2)
        if ends is not None:
            chart.whisker(far_quoted, *ends, colour=index, shift=shift)
        chart.dot(
            far_quoted * 10 ** (shift / (chart.x.stop - chart.x.start) * -np.log10(lowest)),
            value,
            index,
            f"{runs[index].name}: TAR {short(value, percent=True)} at FAR {short(far_quoted, log=True)}",
        )
    return Plot(
        "ROC",
        "True accept rate over false accept rate, with the 95 % intervals of the curve as a band; markers carry those "
        "of the quoted rates (side by side where arms share a rate). Rates below one over the number of impostor pairs "
        "cannot be measured.",
        chart.svg(),
    )


def det(runs: Sequence[RunRecord], set_name: str) -> Plot | None:
    """FNMR over FMR, both logarithmic, of all arms on one set, with bands: the ROC in terms of errors."""
    drawn = []
    for index, run in enumerate(runs):
        curve = mapping(mapping(run.evaluations.get(set_name, {}).get("curves")).get("roc"))
        fmr, fnmr = numbers(curve.get("far")), 1.0 - numbers(curve.get("tar"))
        if len(fmr) == len(fnmr) and ((fmr > 0) & (fnmr > 0)).any():
            order = np.lexsort((-fnmr, fmr))
            drawn.append((index, fmr[order], fnmr[order]))
    if not drawn:
        return None
    lowest = max(min(float(fmr[fmr > 0].min()) for _, fmr, _ in drawn), 1e-7)
    least = min(float(fnmr[fnmr > 0].min()) for _, _, fnmr in drawn)
    floor = 10.0 ** np.floor(np.log10(0.9 * least))
    chart = Chart(
        Scale(min(lowest, 0.1), 1.0, log=True),
        Scale(float(floor), 1.0, log=True),
        "false match rate",
        f"DET curves of {', '.join(runs[index].name for index, _, _ in drawn)} on {set_name}",
        width=480.0,
        height=320.0,
        margin=(14, 24, 44, 52),
    )
    for index, far, low, high in _bands(runs, set_name):
        seen = far >= lowest
        chart.area(far[seen], 1.0 - high[seen], 1.0 - low[seen], index)
    diagonal = np.geomspace(max(lowest, floor), 1.0, 2)
    chart.line(diagonal, diagonal, -1, dashed=True)
    for index, fmr, fnmr in drawn:
        known = fmr >= lowest
        steps = np.repeat(fmr[known], 2)[1:], np.repeat(fnmr[known], 2)[:-1]
        chart.line(steps[0], np.where(steps[1] >= floor, steps[1], np.nan), index)
    return Plot(
        "DET",
        "False non-match rate over false match rate; the lower the better. The dashed line is where both are equal.",
        chart.svg(),
    )


def folds(runs: Sequence[RunRecord], set_name: str) -> Plot | None:
    """The errors of each fold as bars from 0, all arms side by side, and their mean."""
    drawn = []
    for index, run in enumerate(runs):
        accuracy = mapping(mapping(run.evaluations.get(set_name, {}).get("metrics")).get(ACCURACY.name))
        per_fold = numbers(accuracy.get("per_fold"))
        if len(per_fold) > 1:
            drawn.append((index, 1.0 - per_fold))
    if not drawn:
        return None
    count = max(len(errors) for _, errors in drawn)
    top = max(float(errors.max()) for _, errors in drawn)
    chart = Chart(
        Scale(0.5, count + 0.5),
        Scale(0.0, 1.15 * top or 0.01),
        "fold",
        f"Errors per fold of {', '.join(runs[index].name for index, _ in drawn)} on {set_name}",
        percent=True,
        width=480.0,
        margin=(14, 24, 40, 52),
    )
    wide = 0.7 / len(drawn)
    for place, (index, errors) in enumerate(drawn):
        for fold, error in enumerate(errors, start=1):
            left = fold - 0.35 + place * wide
            chart.area(np.array([left, left + 0.9 * wide]), np.zeros(2), np.full(2, error), index, "hill")
        chart.line(np.array([0.5, count + 0.5]), np.full(2, errors.mean()), index, dashed=True)
    return Plot(
        "Errors per fold",
        "Share of pairs classified wrongly, each fold at the threshold chosen on the other folds; dashed: the mean.",
        chart.svg(),
    )


def groups(runs: Sequence[RunRecord], set_name: str) -> Iterator[Plot]:
    """FNMR and FMR of each group with their intervals, at each common threshold; arms one above the other."""
    found = {
        index: mapping(mapping(run.evaluations.get(set_name, {}).get("groups")).get("at"))
        for index, run in enumerate(runs)
    }
    for point in dict.fromkeys(point for at in found.values() for point in at):
        rates = {index: mapping(mapping(at.get(point)).get("rates")) for index, at in found.items()}
        names = list(dict.fromkeys(name for of_arm in rates.values() for name in of_arm))
        for kind, title in (("fnmr", "False non-match rate"), ("fmr", "False match rate")):
            entries = [
                (row, index, Figure.from_json(mapping(mapping(rates[index].get(name)).get(kind))))
                for row, name in enumerate(names)
                for index in rates
            ]
            if any(rate.value is not None for _, _, rate in entries):
                picture = _dots_and_intervals(names, entries, len(runs), f"{title} by group on {set_name}")
                yield Plot(
                    f"{title} at the threshold of {point_label(point)}",
                    _spreads(runs, found, point, kind),
                    picture,
                )


def _dots_and_intervals(
    names: Sequence[str], entries: Sequence[tuple[int, int, Figure]], arms: int, label: str
) -> Markup:
    top = max(end for _, _, rate in entries for end in (rate.value or 0.0, *(rate.interval or ())))
    left, right, row_height = 150.0, 500.0, 14.0 + 12.0 * arms
    scale = Scale(0.0, 1.06 * top or 1.0, left, right)
    bottom = 8.0 + row_height * len(names)
    marks: list[Markup] = []
    for value in scale.ticks(4):
        at = float(scale(value))
        marks.append(tag("path", class_="grid", d=f"M{at:.1f} 4V{bottom:.1f}"))
        text = short(value, percent=True)
        marks.append(tag("text", text, class_="tick", x=at, y=bottom + 16, text_anchor="middle"))
    for row, name in enumerate(names):
        middle = 8.0 + row_height * (row + 0.5)
        shown = name if len(name) <= 22 else name[:21] + "…"
        marks.append(tag("text", shown, class_="tick", x=left - 10, y=middle + 4, text_anchor="end"))
    for row, index, rate in entries:
        at = 8.0 + row_height * (row + 0.5) + 12.0 * (index - (arms - 1) / 2)
        if rate.value is None:
            marks.append(tag("text", "no such pairs", class_="tick", x=left + 4, y=at + 4))
            continue
        if rate.interval is not None:
            start, stop = (float(scale(end)) for end in rate.interval)
            caps = f"M{start:.1f} {at:.1f}H{stop:.1f}M{start:.1f} {at - 3:.1f}v6M{stop:.1f} {at - 3:.1f}v6"
            marks.append(tag("path", class_=f"whisker {ink(index)}", d=caps))
        note = tag("title", f"{names[row]}: {short(rate.value, percent=True)}")
        marks.append(tag("circle", note, class_=f"dot {ink(index)}", cx=float(scale(rate.value)), cy=at, r=3.6))
    size = f"0 0 520 {bottom + 26:.0f}"
    return tag("svg", marks, viewBox=size, role="img", aria_label=label, class_="chart")


def _spreads(runs: Sequence[RunRecord], found: Mapping[int, Mapping[str, Any]], point: str, kind: str) -> str:
    words = []
    for index, at in found.items():
        spread = Figure.from_json(mapping(mapping(mapping(at.get(point)).get("spread")).get(kind)))
        if spread.value is not None:
            whose = f"{runs[index].name}: " if len(runs) > 1 else ""
            between = ""
            if ends := spread.interval:
                between = f" (95 % interval {100 * ends[0]:.3g} … {100 * ends[1]:.3g})".replace("-", "−")
            high, low = spread.details.get("highest"), spread.details.get("lowest")
            words.append(f"{whose}{high} lies {100 * spread.value:.3g} points above {low}{between}.")
    return " ".join(["Pairs within each group, all groups at one threshold, 95 % intervals.", *words])


def ranks(runs: Sequence[RunRecord], set_name: str) -> Plot | None:
    """The share of probes whose mate is among the first k of the gallery, over k (CMC)."""
    drawn = _points(runs, set_name, "cmc", "rank", "rate")
    if not drawn:
        return None
    last = max(float(rank.max()) for _, rank, _ in drawn)
    floor = min(float(rate.min()) for _, _, rate in drawn)
    air = 0.1 * (1.0 - floor) or 0.01
    chart = Chart(
        Scale(1.0, max(last, 2.0), log=last > 30),
        Scale(max(0.0, floor - air), 1.0 + 0.2 * air),
        "rank",
        f"CMC of {', '.join(runs[index].name for index, _, _ in drawn)} on {set_name}",
        percent=True,
        width=480.0,
        height=270.0,
        margin=(14, 24, 44, 52),
    )
    for index, rank, rate in drawn:
        chart.line(rank, rate, index)
        chart.dot(float(rank[0]), float(rate[0]), index, f"rank 1: {short(float(rate[0]), percent=True)}")
    return Plot(
        "CMC",
        "Share of the probes with a mate in the gallery whose mate is among the first k results, over the rank k.",
        chart.svg(),
    )


def identification(runs: Sequence[RunRecord], set_name: str) -> Plot | None:
    """The share of mated probes found and accepted (TPIR) over the share of others accepted (FPIR)."""
    drawn = [
        (index, fpir[fpir > 0], tpir[fpir > 0])
        for index, fpir, tpir in _points(runs, set_name, "dir", "fpir", "tpir")
        if (fpir > 0).any()
    ]
    if not drawn:
        return None
    lowest = min(0.1, *(float(fpir.min()) for _, fpir, _ in drawn))
    floor = min(float(tpir.min()) for _, _, tpir in drawn)
    air = 0.1 * (1.0 - floor) or 0.01
    chart = Chart(
        Scale(lowest, 1.0, log=True),
        Scale(max(0.0, floor - air), 1.0 + 0.2 * air),
        "false positive identification rate",
        f"Open-set identification of {', '.join(runs[index].name for index, _, _ in drawn)} on {set_name}",
        percent=True,
        width=480.0,
        height=270.0,
        margin=(14, 24, 44, 52),
    )
    for index, fpir, tpir in drawn:
        order = np.lexsort((tpir, fpir))
        chart.line(fpir[order], tpir[order], index)
    return Plot(
        "Open-set identification",
        "Share of mated probes that are found first and accepted, over the share of probes without a mate that are "
        "accepted as somebody.",
        chart.svg(),
    )


def _points(
    runs: Sequence[RunRecord], set_name: str, curve: str, x: str, y: str
) -> list[tuple[int, Float[np.ndarray, " k"], Float[np.ndarray, " k"]]]:
    """A curve of each arm for which it is complete."""
    found = []
    for index, run in enumerate(runs):
        of_arm = mapping(mapping(run.evaluations.get(set_name, {}).get("curves")).get(curve))
        xs, ys = numbers(of_arm.get(x)), numbers(of_arm.get(y))
        if len(xs) == len(ys) and len(xs):
            found.append((index, xs, ys))
    return found


def _bands(
    runs: Sequence[RunRecord], set_name: str
) -> list[tuple[int, Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]]:
    """FAR and the ends of the interval of TAR, of each arm that has them."""
    found = []
    for index, run in enumerate(runs):
        band = mapping(mapping(run.evaluations.get(set_name, {}).get("curves")).get("roc_band"))
        far, low, high = (numbers(band.get(key)) for key in ("far", "low", "high"))
        if len(far) == len(low) == len(high) and len(far):
            found.append((index, far, low, high))
    return found


def histograms(runs: Sequence[RunRecord], set_name: str) -> Iterator[Plot]:
    """Similarity of genuine and impostor pairs, an arm at a time on a common axis, with the threshold."""
    found = []
    for index, run in enumerate(runs):
        evaluation = run.evaluations.get(set_name, {})
        curve = mapping(mapping(evaluation.get("curves")).get("histogram"))
        edges, genuine, impostor = (numbers(curve.get(key)) for key in ("edges", "genuine", "impostor"))
        if len(edges) == len(genuine) + 1 == len(impostor) + 1 and len(genuine):
            densities = [c / max(c.sum(), 1e-12) / np.diff(edges) for c in (genuine, impostor)]
            found.append((index, edges, *densities, threshold(evaluation)))
    if not found:
        return
    occupied = [edges[:-1][(g > 1e-3 * g.max()) | (i > 1e-3 * i.max())] for _, edges, g, i, _ in found]
    ends = [edges[1:][(g > 1e-3 * g.max()) | (i > 1e-3 * i.max())] for _, edges, g, i, _ in found]
    low, high = span([*occupied, *ends])
    top = max(float(max(genuine.max(), impostor.max())) for _, _, genuine, impostor, _ in found)
    for index, edges, genuine, impostor, cut in found:
        chart = Chart(
            Scale(low, high),
            Scale(0.0, 1.12 * top or 1.0),
            "cosine similarity",
            f"Similarities of genuine and impostor pairs, {runs[index].name} on {set_name}",
            width=400.0,
            margin=(24, 18, 40, 34),
        )
        chart.hill(edges, impostor, -1, "impostor")
        chart.hill(edges, genuine, index, "genuine")
        if cut is not None:
            chart.upright(*cut)
        yield Plot(
            runs[index].name,
            "Densities, each of area 1: there are many more impostor than genuine pairs.",
            chart.svg(),
        )


def threshold(evaluation: Mapping[str, Any]) -> tuple[float, str] | None:
    """The threshold and its label: that of the accuracy, or else that of a quoted FAR."""
    metrics = mapping(evaluation.get("metrics"))
    known = map(Metric.parse, metrics)
    for metric in sorted(known, key=lambda metric: (not metric.judges_pairs, metric != TAR.at(1e-3))):
        value = finite(mapping(metrics[metric.key]).get("threshold"))
        if value is not None and metric.judges_pairs:
            return value, f"threshold {short(value)}"
        if value is not None and metric.far is not None:
            return value, f"FAR {short(metric.far, log=True)} at {short(value)}"
    return None
