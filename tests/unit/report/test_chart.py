from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.report.chart import Chart, Scale, short, span

finite = st.floats(-1e6, 1e6)


def test_Scale_maps_its_ends_and_the_logarithmic_middle() -> None:
    np.testing.assert_allclose(Scale(2.0, 4.0, 100.0, 0.0)(np.array([2.0, 2.5, 4.0, 9.0])), [100.0, 75.0, 0.0, 0.0])
    np.testing.assert_allclose(Scale(1e-4, 1.0, 0.0, 80.0, log=True)(np.array([0.0, 1e-4, 1e-2, 1.0])), [0, 0, 40, 80])


@given(low=finite, width=st.floats(1e-3, 1e6))
def test_Scale_ticks_are_few_evenly_spaced_and_inside(low: float, width: float) -> None:
    scale = Scale(low, low + width)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0], rtol=1e-6)


@given(values=st.lists(st.one_of(finite, st.just(float("nan")), st.just(float("inf"))), max_size=8), zero=st.booleans())
def test_span_is_never_empty_and_contains_the_finite_values(values: list[float], zero: bool) -> None:
    low, high = span([np.array(values)], at_zero=zero)
    assert low < high
    assert all(low <= value <= high for value in values if np.isfinite(value))


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (-0.0, {}, "0"),
        (0.1234, {"percent": True}, "12.3\N{NO-BREAK SPACE}%"),
        (1e-3, {"log": True}, "10⁻³"),
        (2.5e-5, {}, "2.5·10⁻⁵"),
        (-1.5, {}, "−1.5"),
        (12500, {}, "12.5k"),
        (1234, {}, "1234"),
    ],
)
def test_short_formats_percentages_powers_and_thousands(value: float, options: dict[str, bool], text: str) -> None:
    assert short(value, **options) == text


def test_Chart_line_breaks_at_nan() -> None:
    chart = Chart(Scale(0.0, 4.0), Scale(0.0, 1.0), "step", "a chart")
    chart.line(np.arange(5.0), np.array([0.0, 1.0, np.nan, 0.5, 1.0]), 0)
    path = re.search(r'class="line arm0" d="([^"]+)"', chart.svg())
    assert path is not None
    assert [re.sub(r"[^ML]", "", part) for part in [path[1]]] == ["MLML"]


def test_Chart_line_end_labels_do_not_overlap() -> None:
    chart = Chart(Scale(0.0, 1.0), Scale(0.0, 1.0), "step", "a chart")
    for arm in range(3):
        chart.line(np.array([0.0, 1.0]), np.array([0.5, 0.5]), arm, end=True)
    heights = [float(y) for y in re.findall(r'class="end arm\d" x="[\d.]+" y="([\d.]+)"', chart.svg())]
    assert len(heights) == 3
    assert np.diff(heights).min() >= 13 - 0.11
