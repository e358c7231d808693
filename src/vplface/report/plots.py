"""The figures of training: one function each, numbers in, inline SVG out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vplface.evaluation.figure import Interval, finite
from vplface.report.arms import mapping
from vplface.report.chart import Chart, Scale, ink, short, span
from vplface.report.markup import Child, Markup, tag
from vplface.report.record import RunRecord

BINS = 160


@dataclass(frozen=True)
class Plot:
    """A picture with its title and caption."""

    title: str
    note: Child
    picture: Markup


def curves(runs: Sequence[RunRecord]) -> Iterator[Plot]:
    """Logged quantities over the steps, all arms in each figure; a quantity that no arm logged has none."""
    quantities: tuple[tuple[str, str, str, dict[str, bool]], ...] = (
        (
            "loss",
            "Loss",
            "Mean over the pictures of a step. Do not rank arms with different losses by it.",
            {},
        ),
        (
            "coverage",
            "Coverage",
            "Share of classes with a living memory: only their prototypes can be changed by VPL.",
            {"percent": True, "at_zero": True},
        ),
        (
            "drift",
            "Feature drift",
            "Mean squared distance that features of the same pictures moved between measurements (2: unrelated).",
            {"at_zero": True},
        ),
        (
            "nearer_to_memory",
            "Nearer to another class's memory",
            "Share of samples nearer to another class's memory than to all other prototypes: for them VPL is harder.",
            {"percent": True, "at_zero": True},
        ),
        ("lr", "Learning rate", "As the schedule set it.", {"at_zero": True, "ends": False}),
        ("pictures_per_second", "Pictures per second", "Training throughput.", {"at_zero": True, "ends": False}),
    )
    for key, title, note, options in quantities:
        figure = _over_steps(runs, title, note, {key: False}, **options)
        if figure is not None:
            yield figure
        if key == "drift":
            own = _over_steps(
                runs,
                "Cosine to own class",
                "Mean cosine of a sample to its own prototype (solid) and to what its class remembers (dashed).",
                {"cos_prototype": False, "cos_memory": True},
            )
            if own is not None:
                yield own
            yield from injection(runs)


def injection(runs: Sequence[RunRecord]) -> Iterator[Plot]:
    """Cosine to memory by its age, and the effect of injection on prototypes and their gradient."""
    figures = (
        _by_age(
            runs,
            "Drift by lag",
            "Mean squared distance that features of the same pictures moved within so many steps, as last measured;"
            " dashed: that of two pictures of a class. If it is well below that at Δt, a memory represents its class.",
            "drift_by_lag",
            level="spread",
        ),
        _by_age(
            runs,
            "Cosine to memory, by age",
            "Mean cosine of a sample to what its class remembers, in the last fifth of the run. A fall towards Δt is"
            " the effect of age on a memory: if it is deep, Δt is too long or the start too early.",
            "cosine_by_age",
            samples="samples_by_age",
        ),
        _over_steps(
            _each_part(runs, "injected_angle"),
            "Injected angle",
            "Angle in degrees between prototypes with and without injection: mean (solid), 95th percentile (dashed)."
            " Near 0 VPL is the plain softmax.",
            {"injected_angle/mean": False, "injected_angle/p95": True},
            at_zero=True,
        ),
        _over_steps(
            _each_part(runs, "gradient_norm"),
            "Gradient of the prototypes",
            "Norm of dL/dW of the same features with injection (solid) and without (dashed): what VPL adds to a step.",
            {"gradient_norm/injected": False, "gradient_norm/plain": True},
            at_zero=True,
        ),
    )
    yield from (figure for figure in figures if figure is not None)


def validation(runs: Sequence[RunRecord], metric_title: Mapping[str, str]) -> Iterator[Plot]:
    """The validation metrics over the steps, a figure for each metric of each set."""
    keys: dict[tuple[str, str], None] = {}
    for run in runs:
        for line in run.validation:
            for set_name, metrics in mapping(line.get("validation")).items():
                keys.update(dict.fromkeys((set_name, metric) for metric in mapping(metrics)))
    for set_name, metric in keys:
        lines: list[tuple[int, Float[np.ndarray, " k"], Float[np.ndarray, " k"]]] = []
        for index, run in enumerate(runs):
            points = [
                (line["step"], finite(mapping(mapping(line.get("validation")).get(set_name)).get(metric)))
                for line in run.validation
            ]
            known = np.array([point for point in points if point[1] is not None], dtype=np.float64).reshape(-1, 2)
            lines.append((index, known[:, 0], known[:, 1]))
        if not any(len(steps) for _, steps, _ in lines):
            continue
        fraction = all(np.all((values >= 0) & (values <= 1)) for _, _, values in lines)
        title = f"{metric_title.get(metric, metric)}, {set_name}"
        chart = _steps_chart(runs, title, [values for _, _, values in lines], percent=fraction)
        for index, steps, values in lines:
            chart.line(steps, values, index, end=True)
            for step, value in zip(steps, values, strict=True):
                chart.dot(step, value, index, f"{runs[index].name}, step {step:.0f}: {short(value, percent=fraction)}")
        yield Plot(title, "Measured during training on the validation pairs.", chart.svg())


def whisker(value: float, ends: Interval | None, low: float, high: float, colour: int) -> Markup:
    """A value and its interval on a common scale, for a cell of the table."""
    scale = Scale(low, high, 5.0, 115.0)
    marks = [tag("path", class_="grid", d="M5 7H115")]
    if ends is not None:
        start, stop = (float(scale(end)) for end in ends)
        marks.append(tag("path", class_=f"whisker {ink(colour)}", d=f"M{start:.1f} 7H{stop:.1f}"))
    marks.append(tag("circle", class_=f"dot {ink(colour)}", cx=float(scale(value)), cy=7.0, r=3.4))
    return tag("svg", marks, viewBox="0 0 120 14", class_="glyph", aria_hidden="true")


def difference_whisker(ends: Interval, value: float, reach: float) -> Markup:
    """A paired difference with its interval, and the line of no difference in the middle."""
    scale = Scale(-reach, reach, 5.0, 115.0)
    start, stop, at = (float(scale(point)) for point in (*ends, value))
    marks = [
        tag("path", class_="zero", d="M60 0V14"),
        tag("path", class_="whisker neutral", d=f"M{start:.1f} 7H{stop:.1f}"),
        tag("circle", class_="dot neutral", cx=at, cy=7.0, r=3.4),
    ]
    return tag("svg", marks, viewBox="0 0 120 14", class_="glyph", aria_hidden="true")


def numbers(values: object) -> Float[np.ndarray, " k"]:
    """The values if they are a list of finite numbers, else an empty array."""
    if isinstance(values, list) and all(finite(value) is not None for value in values):
        return np.array(values, dtype=np.float64)
    return np.zeros(0)


def _over_steps(
    runs: Sequence[RunRecord],
    title: str,
    note: str,
    keys: Mapping[str, bool],
    *,
    percent: bool = False,
    at_zero: bool = False,
    ends: bool = True,
) -> Plot | None:
    """The logged quantities ``keys`` (key: dashed or not) of all arms."""
    drawn: list[tuple[int, bool, _Thinned]] = []
    for index, run in enumerate(runs):
        for key, dashed in keys.items():
            steps, values = run.series(key)
            if np.isfinite(values).any():
                drawn.append((index, dashed, _thinned(steps, values)))
    if not drawn:
        return None
    ranges = [extreme for _, _, line in drawn for extreme in (line.low, line.high)]
    chart = _steps_chart(runs, title, ranges, percent=percent, at_zero=at_zero)
    for index, _, line in drawn:
        if np.isfinite(line.low).all() and not np.array_equal(line.low, line.high):
            chart.area(line.steps, line.low, line.high, index)
    for index, dashed, line in drawn:
        chart.line(line.steps, line.mean, index, dashed=dashed, end=ends)
    return Plot(title, note, chart.svg())


def _each_part(runs: Sequence[RunRecord], key: str) -> list[RunRecord]:
    """The runs, with the parts of a logged mapping as quantities of their own, ``key/part``."""
    return [
        replace(
            run,
            training=[
                {**line, **{f"{key}/{part}": value for part, value in mapping(line.get(key)).items()}}
                for line in run.training
            ],
        )
        for run in runs
    ]


def _by_age(
    runs: Sequence[RunRecord], title: str, note: str, key: str, *, level: str | None = None, samples: str | None = None
) -> Plot | None:
    """A logged mapping {steps: value} of each arm: the last, with a level, or the weighted mean of the last fifth."""
    drawn: list[tuple[int, Float[np.ndarray, " k"], Float[np.ndarray, " k"], float | None]] = []
    for index, run in enumerate(runs):
        lines = [line for line in run.training if mapping(line.get(key))]
        if lines:
            late = lines[-1:] if samples is None else [e for e in lines if e["step"] >= 0.8 * lines[-1]["step"]]
            ages, means = _pooled(late, key, samples)
            drawn.append((index, ages, means, None if level is None else finite(lines[-1].get(level))))
    drawn = [line for line in drawn if len(line[1])]
    if not drawn:
        return None
    values = [ys for _, _, ys, _ in drawn] + [np.array([beside]) for *_, beside in drawn if beside is not None]
    lifetimes = {lifetime for run in runs if (lifetime := variational_lifetime(run)) is not None}
    furthest = max(float(ages.max()) for _, ages, _, _ in drawn)
    low, high = span(values, at_zero=level is not None)
    chart = Chart(Scale(0.0, furthest), Scale(low, high), "age, steps", title)
    for lifetime in sorted(lifetimes):
        if lifetime < furthest:
            chart.upright(lifetime, "Δt")
    for index, ages, ys, beside in drawn:
        if beside is not None:
            chart.line(np.array([0.0, furthest]), np.array([beside, beside]), index, dashed=True)
        chart.line(ages, ys, index, end=True)
        for age, value in zip(ages, ys, strict=True):
            chart.dot(age, value, index, f"{runs[index].name}, {age:.0f} steps: {short(value)}")
    return Plot(title, note, chart.svg())


def _pooled(
    lines: Sequence[Mapping[str, Any]], key: str, samples: str | None
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Ages and the means of their values over lines, weighted by the number of samples."""
    sums: dict[int, list[float]] = {}
    for line in lines:
        for age, logged in mapping(line.get(key)).items():
            value = finite(logged)
            weight = 1.0 if samples is None else finite(mapping(line.get(samples)).get(age)) or 0.0
            if value is not None and weight > 0 and str(age).isdecimal():
                total = sums.setdefault(int(age), [0.0, 0.0])
                total[0] += weight * value
                total[1] += weight
    ages = sorted(sums)
    return np.array(ages, dtype=np.float64), np.array([sums[age][0] / sums[age][1] for age in ages])


def _steps_chart(
    runs: Sequence[RunRecord],
    title: str,
    values: Sequence[Float[np.ndarray, " k"]],
    *,
    percent: bool,
    at_zero: bool = False,
) -> Chart:
    last = max((line["step"] for run in runs for line in (*run.training, *run.validation)), default=1)
    low, high = span(values, at_zero=at_zero)
    chart = Chart(Scale(0.0, float(max(last, 1))), Scale(low, high), "step", f"{title} over the steps", percent)
    starts = {start for run in runs if (start := variational_start(run)) is not None and 0 < start < last}
    for start in sorted(starts):
        chart.upright(start, "VPL starts")
    return chart


def variational_start(run: RunRecord) -> float | None:
    """The step at which variational prototypes start, if the run has them and logged it."""
    for line in run.training:
        if mapping(line.get("begin")):
            return float(line["step"])
    return _length_in_steps(run, "start")


def variational_lifetime(run: RunRecord) -> float | None:
    """Δt in steps, if the run has variational prototypes and logged it."""
    for line in run.training:
        if begin := mapping(line.get("begin")):
            return finite(begin.get("delta_t"))
    return finite(run.environment.get("delta_t")) or _length_in_steps(run, "delta_t")


def _length_in_steps(run: RunRecord, key: str) -> float | None:
    length = mapping(run.config.get("variational")).get(key)
    amount, _, unit = str(length).partition(" ")
    try:
        value = float(amount)
    except ValueError:
        return None
    per_epoch = finite(run.environment.get("steps_per_epoch"))
    if unit.startswith("epoch"):
        return None if per_epoch is None else value * per_epoch
    return value


class _Thinned(NamedTuple):
    """A series in bins: their middle, mean, lowest and highest values."""

    steps: Float[np.ndarray, " b"]
    mean: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]


def _thinned(steps: Float[np.ndarray, " k"], values: Float[np.ndarray, " k"]) -> _Thinned:
    """At most ``BINS`` bins of a series; a shorter series is returned unchanged, with its gaps."""
    if len(steps) <= BINS:
        return _Thinned(steps, values, values, values)
    known = np.isfinite(values)
    parts = zip(np.array_split(steps[known], BINS), np.array_split(values[known], BINS), strict=True)
    return _Thinned(*np.array([(s.mean(), v.mean(), v.min(), v.max()) for s, v in parts if len(s)]).T)
