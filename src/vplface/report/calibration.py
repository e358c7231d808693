"""Calibrations on a page: predicted against observed probabilities, and what a similarity is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vplface.errors import DataError
from vplface.evaluation.calibration import Calibration
from vplface.evaluation.figure import Figure, finite
from vplface.report.arms import mapping
from vplface.report.chart import Chart, Scale, short, span
from vplface.report.plots import Plot
from vplface.report.record import RunRecord


def plots(runs: Sequence[RunRecord], set_name: str) -> Iterator[Plot]:
    """The calibration curves of all arms, and their log-likelihood ratios over the similarity."""
    found = [(index, run, _calibration(run.evaluations.get(set_name, {}))) for index, run in enumerate(runs)]
    fitted = [(index, run, stored, fit) for index, run, stored in found if (fit := _fit(stored)) is not None]
    if not fitted:
        return
    whole = Scale(0.0, 1.0)
    chart = _chart(whole, whole, "predicted probability", f"Calibration curves on {set_name}", percent=True)
    chart.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), -1, dashed=True)
    for index, run, stored, _ in fitted:
        for predicted, observed in _curve(stored):
            shift = 5.0 * (index - (len(runs) - 1) / 2)
            if observed.interval is not None:
                chart.whisker(predicted, *observed.interval, colour=index, shift=shift)
            assert observed.value is not None
            note = f"{run.name}: {short(observed.value, percent=True)} at a predicted {short(predicted, percent=True)}"
            chart.dot(predicted + shift / (chart.x.stop - chart.x.start), observed.value, index, note)
    costs = "; ".join(_costs(run.name if len(runs) > 1 else "", stored) for _, run, stored, _ in fitted)
    yield Plot(
        "Calibration",
        "Predicted and observed probability of one person at a prior of ½, on people whom the calibration was not "
        f"fitted on, with 95 % intervals. On the dashed line they agree. {costs}.",
        chart.svg(),
    )
    similarity = np.linspace(-0.2, 1.0, 241)
    ratios = [(index, fit.llr(similarity)) for index, _, _, fit in fitted]
    low, high = span([llr for _, llr in ratios])
    words = f"Log-likelihood ratio over the similarity on {set_name}"
    chart = _chart(Scale(-0.2, 1.0), Scale(low, high), "similarity", words)
    for index, llr in ratios:
        chart.line(similarity, llr, index)
    yield Plot(
        "Log-likelihood ratio",
        "Natural log of the likelihood of a similarity for one person over that for two. Cut off where so many "
        "people can show no more.",
        chart.svg(),
    )


def _chart(x: Scale, y: Scale, label: str, words: str, *, percent: bool = False) -> Chart:
    return Chart(x, y, label, words, percent=percent, width=480.0, height=320.0, margin=(14, 24, 44, 52))


def _calibration(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The calibration that was fitted, or else the stored one."""
    return mapping(evaluation.get("calibration")) or mapping(mapping(evaluation.get("promise")).get("calibration"))


def _fit(stored: Mapping[str, Any]) -> Calibration | None:
    try:
        return Calibration.from_json(stored.get("fit")) if stored else None
    except DataError:
        return None


def _curve(stored: Mapping[str, Any]) -> Iterator[tuple[float, Figure]]:
    parts = stored.get("curve")
    for part in map(mapping, parts if isinstance(parts, list) else []):
        predicted, observed = finite(part.get("predicted")), Figure.from_json(mapping(part.get("observed")))
        if predicted is not None and observed.value is not None:
            yield predicted, observed


def _costs(name: str, stored: Mapping[str, Any]) -> str:
    cost, least = finite(mapping(stored.get("cllr")).get("value")), finite(stored.get("min_cllr"))
    said = ", ".join(
        f"{label} {value:.3f}" for label, value in (("Cllr", cost), ("minCllr", least)) if value is not None
    )
    return f"{name}: {said} bits" if name else f"{said} bits"
