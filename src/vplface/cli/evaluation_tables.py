"""Evaluations on the terminal: figures, differences, groups and strata as tables, with their protocol below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from vplface.cli.calibration_table import show_calibration
from vplface.cli.claims_tables import claims_sentence, show_hard, show_promise, show_ratios
from vplface.cli.quality_tables import show_quality
from vplface.cli.tables import with_interval
from vplface.console import Console, say
from vplface.data.degrade import described
from vplface.data.pictures import Preprocessing
from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Difference, Figure, Interval
from vplface.evaluation.metrics import Metric, point_label
from vplface.printable import printable_name
from vplface.tables import Table


def show_figures(evaluation: Evaluation, title: str, prepared: str, files: Mapping[str, str]) -> None:
    """Print the figures of one model, the protocol, and hashes of the files that were read."""
    table = Table(f"{title} (%)", ["figure", "value", "95 % interval", "threshold"])
    for metric, figure in evaluation.metrics.items():
        if Metric.parse(metric).descriptive:  # the tables of strata show them
            continue
        if figure.value is None:
            table.add_row(Metric.parse(metric).label, "—", "", "")
            continue
        std, threshold = figure.details.get("std"), figure.details.get("threshold")
        spread = "" if std is None else f" ± {100 * std:.2f}"
        table.add_row(
            Metric.parse(metric).label,
            f"{100 * figure.value:.2f}{spread}",
            _ends(figure.interval),
            "" if threshold is None else f"{threshold:.4f}",
        )
    console = Console()
    console.print(table)
    if evaluation.promise:
        show_promise(evaluation.promise)
        if judged := evaluation.promise.get("calibration"):
            show_calibration(judged, "stored ")
    if evaluation.hard:
        show_hard(evaluation.hard)
    if evaluation.calibration:
        show_calibration(evaluation.calibration)
    if evaluation.quality:
        show_quality(evaluation.quality)
    if evaluation.groups:
        _show_groups(console, evaluation.groups)
    if evaluation.strata:
        _show_strata(console, evaluation.strata)
    reasons = (figure.details.get("reason") for figure in evaluation.metrics.values())
    lines = list(dict.fromkeys(reason for reason in reasons if reason))
    if claims := evaluation.protocol.get("claims"):
        lines.append(claims_sentence(claims, evaluation.protocol["identities"]))
    lines += [f"Protocol: {_sentence(evaluation.protocol)}; {prepared}."]
    lines += [f"sha256 {digest}  {path}" for path, digest in files.items()]
    _say(console, *lines)


def show_degraded(clean: Evaluation, degraded: Sequence[Evaluation]) -> None:
    """Print the figures on clean and on degraded pictures side by side, then the strata of each degradation."""
    labels = [
        f"{number} {evaluation.protocol['degrade']['kind'].replace('_', ' ')}"
        for number, evaluation in enumerate(degraded, 1)
    ]
    table = Table("on degraded pictures (%)", ["figure", "clean", *labels])
    for metric, figure in clean.metrics.items():
        if figure.value is not None:
            cells = [_with_interval(evaluation.metrics[metric]) for evaluation in (clean, *degraded)]
            table.add_row(Metric.parse(metric).label, *cells)
    console = Console()
    console.print(table)
    for label, evaluation in zip(labels, degraded, strict=True):
        degrade = evaluation.protocol["degrade"]
        _say(console, f"{label}: {degrade['pictures']:,} pictures are degraded: {described(degrade)}.")
        if evaluation.quality:
            show_quality(evaluation.quality)
        if evaluation.strata:
            _show_strata(console, evaluation.strata)


def _with_interval(figure: Figure) -> str | Text:
    if figure.value is None:
        return "—"
    return with_interval(f"{100 * figure.value:.2f}", figure.interval and _ends(figure.interval))


def show_differences(first: str, second: str, stored: Mapping[str, Mapping[str, Any]], name: str | None = None) -> None:
    """Print the differences between a model and the first, in every figure that both have.

    Args:
        first: the name of the first model.
        second: that of the other.
        stored: the differences, as :func:`vplface.evaluation.compare` returns them.
        name: of the evaluation, if there are several.
    """
    differences = {metric: Difference.from_json(entry) for metric, entry in stored.items()}
    table = Table(
        f"{'' if name is None else f'{printable_name(name)}: '}{printable_name(second)} − "
        f"{printable_name(first)} (percentage points, same pairs)",
        ["figure", "difference", "95 % interval", ""],
        text=(0, 3),
    )
    for metric, difference in differences.items():
        assert difference.value is not None
        clear = "" if difference.distinguishable else "not significant" if difference.interval else "no interval"
        ends = _ends(difference.interval, "+.2f")
        table.add_row(Metric.parse(metric).label, f"{100 * difference.value:+.2f}", ends, clear)
    console = Console()
    console.print(table)
    for metric, difference in differences.items():
        if test := difference.mcnemar:
            _say(
                console,
                f"{Metric.parse(metric).label}: {test['only_second']} pairs are classified correctly by {second} "
                f"alone, {test['only_first']} by {first} alone (McNemar's exact test: p = {test['p']:.2g}, if pairs "
                "were independent)",
            )


def preparation(preprocessing: Preprocessing) -> str:
    """A description of the preprocessing in words."""
    mean, std = (",".join(f"{number:g}" for number in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    return f"{preprocessing.color.upper()}, mean {mean}, std {std}"


def _show_groups(console: Console, groups: Mapping[str, Any]) -> None:
    for point, at in groups["at"].items():
        table = Table(
            f"groups at the threshold of {point_label(point)}, {at['threshold']:.4f} (%)",
            ["group", "people", "FNMR", "95 % interval", "FMR", "95 % interval"],
        )
        for name, rates in at["rates"].items():
            cells = [cell for kind in ("fnmr", "fmr") for cell in _rate(Figure.from_json(rates[kind]), kind)]
            table.add_row(printable_name(name), f"{groups['groups'][name]['identities']:,}", *cells)
        console.print(table)
        for kind, stored in at["spread"].items():
            if stored is None:
                continue
            spread = Figure.from_json(stored)
            assert spread.value is not None
            _say(
                console,
                f"{kind.upper()} spread: {_percent(spread.value, kind)} points, {spread.details['highest']} over "
                f"{spread.details['lowest']} (95 % interval of these two: {_ends(spread.interval, _format(kind))})",
            )
        show_ratios(at)


def _show_strata(console: Console, strata: Mapping[str, Any]) -> None:
    rates = Table(
        "by quality of the two pictures, at the threshold of all pairs (%)",
        ["FAR", "stratum", "FNMR", "95 % interval", "FMR", "95 % interval"],
        text=(0, 1),
    )
    tail = Table("impostor pairs that are accepted, by quality (%)", ["", "pairs", *strata["pairs"]])
    total = sum(of["impostors"] for of in strata["pairs"].values())
    shares = (f"{100 * of['share']:.1f}" for of in strata["pairs"].values())
    tail.add_row("all impostor pairs", f"{total:,}", *shares)
    for point, at in strata["at"].items():
        far = point_label(point)
        for place, (name, of) in enumerate(at["strata"].items(), 1):
            cells = [cell for kind in ("fnmr", "fmr") for cell in _rate(Figure.from_json(of[kind]), kind)]
            rates.add_row("" if place > 1 else far.removeprefix("FAR "), name, *cells)
        parts = (Figure.from_json(of["tail"]) for of in at["strata"].values())
        tail.add_row(f"accepted at {far}", f"{at['accepted']:,}", *map(_share, parts))
    heads = ["pictures", "number", "people", "norm of their mean", "recognisability"]
    pictures = Table("where the poor pictures lie", heads)
    for name, of in strata["pictures"].items():
        norm, scores = Figure.from_json(of["norm"]), of["recognisability"]
        middle, quartiles = (None, None) if scores is None else (scores[1], (scores[0], scores[2]))
        pictures.add_row(
            name,
            f"{of['count']:,}",
            f"{of['identities']:,}",
            _spread(norm.value, norm.interval),
            _spread(middle, quartiles),
        )
    for table in (rates, tail, pictures):
        console.print(table)
    _say(
        console,
        "Recognisability: 1 − the cosine with the mean direction of the poor pictures, at most 1; median (quartiles).",
    )


def _share(figure: Figure) -> Text:
    if figure.value is None:
        return Text("—")
    ends = figure.interval
    return with_interval(f"{100 * figure.value:.1f}", ends and _ends(ends, ".1f"))


def _spread(value: float | None, ends: Interval | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if ends is None else f"{value:.3f} ({ends[0]:.3f} … {ends[1]:.3f})"


def _rate(rate: Figure, kind: str) -> tuple[str, str]:
    return ("—", "") if rate.value is None else (_percent(rate.value, kind), _ends(rate.interval, _format(kind)))


def _percent(value: float, kind: str) -> str:
    return format(100 * value, _format(kind))


def _format(kind: str) -> str:
    return ".4f" if kind == "fmr" else ".2f"  # false matches are counted in ten-thousandths


def _ends(ends: Interval | None, form: str = ".2f") -> str:
    return "—" if ends is None else f"{format(100 * ends[0], form)} … {format(100 * ends[1], form)}"


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        say(line)


def _sentence(protocol: Mapping[str, Any]) -> str:
    all_of = f"all pairs of {protocol['pictures']:,} pictures: " if protocol["kind"] == "all pairs" else ""
    counted = f"{protocol['genuine']:,} genuine, {protocol['impostors']:,} impostor"
    parts = [f"{all_of}{protocol['pairs']:,} pairs ({counted}) of {protocol['identities']:,} people"]
    if protocol["kind"] == "pair list":
        spread = f", ± the standard deviation over {protocol['folds']} folds" if protocol["folds"] > 1 else ""
        parts.append(
            f"threshold chosen on {protocol['threshold_from']} by the rule {protocol['accuracy_rule']}{spread}"
        )
    parts.append(f"accepted: {protocol['accept']}; flip: {protocol['flip']}; FAR rule: {protocol['far_rule']}")
    if protocol["bootstrap"]:
        parts.append(f"intervals: {protocol['bootstrap']} resamples of the people, seed {protocol['seed']}")
    return "; ".join(parts)
