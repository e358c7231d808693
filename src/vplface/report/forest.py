"""Differences with their intervals as rows above one axis, with the line of no difference: a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vplface.report.chart import Scale, ink, span
from vplface.report.markup import Markup, tag
from vplface.report.study_findings import Finding, digits_for, points

_WIDTH, _RIGHT, _TOP, _ROW, _BOTTOM = 720.0, 84.0, 10.0, 30.0, 44.0
_LEFT, _CHARACTER, _GAP = 300.0, 7.0, 14.0
"""Width of the column of names: that of the longest, and at least _LEFT."""


def forest(found: Sequence[Finding], colours: Mapping[str, int], label: str) -> Markup:
    """The differences of one metric over all settings: a row each, in the colour of the arm.

    The bar is the interval of the bootstrap, the thin dashed line below it Student's interval over seeds.

    Args:
        found: the differences.
        colours: number of each arm.
        label: the text alternative of the picture.
    """
    ends = [end for f in found for interval in (f.interval, f.t_interval) if interval is not None for end in interval]
    low, high = span([100 * np.array([0.0, *ends, *(f.value for f in found)])])
    left = max(_LEFT, _GAP + _CHARACTER * max(len(_name(f) + _where(f)) + 2 for f in found))
    x = Scale(low, high, left, left + _WIDTH - _LEFT - _RIGHT)
    bottom = _TOP + _ROW * len(found)
    marks: list[Markup] = []
    for value in x.ticks(6):
        at = float(x(value))
        marks.append(tag("path", class_="grid", d=f"M{at:.1f} {_TOP:.1f}V{bottom:.1f}"))
        text = f"{value:+g}".replace("-", "−") if value else "0"
        marks.append(tag("text", text, class_="tick", x=at, y=bottom + 18, text_anchor="middle"))
    marks.append(tag("path", class_="zero", d=f"M{float(x(0.0)):.1f} {_TOP:.1f}V{bottom:.1f}"))
    for row, finding in enumerate(found):
        marks += _row(finding, colours[finding.arm], x, _TOP + _ROW * (row + 0.5))
    middle = (x.start + x.stop) / 2
    marks.append(
        tag("text", "difference in points", class_="axis-label", x=middle, y=bottom + 38, text_anchor="middle")
    )
    size = f"0 0 {x.stop + _RIGHT:.0f} {bottom + _BOTTOM:.0f}"
    return tag("svg", marks, viewBox=size, role="img", aria_label=label, class_="chart")


def _name(finding: Finding) -> str:
    return f"{finding.arm} − {finding.baseline}"


def _where(finding: Finding) -> str:
    return f"{finding.setting} · {finding.set_name}"


def _row(finding: Finding, colour: int, x: Scale, y: float) -> list[Markup]:
    where = _where(finding)
    names = tag(
        "text",
        tag("tspan", _name(finding), class_=f"end {ink(colour)}"),
        tag("tspan", f"  {where}"),
        class_="tick",
        x=x.start - _GAP,
        y=y + 4,
        text_anchor="end",
    )
    marks = [names]
    digits = digits_for(finding)
    if finding.interval is not None:
        low, high = (float(x(100 * end)) for end in finding.interval)
        path = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"
        marks.append(tag("path", class_=f"whisker {ink(colour)}", d=path))
    if finding.t_interval is not None:
        low, high = (float(x(100 * end)) for end in finding.t_interval)
        marks.append(tag("path", class_=f"line dashed thin {ink(colour)}", d=f"M{low:.1f} {y + 8:.1f}H{high:.1f}"))
    note = ", ".join(points(value, digits) for value in finding.per_seed)
    marks.append(
        tag(
            "circle",
            tag("title", f"{_name(finding)}, {where}: seed by seed {note}"),
            class_=f"dot {ink(colour)}",
            cx=float(x(100 * finding.value)),
            cy=y,
            r=4.0,
        )
    )
    text = points(finding.value, digits)
    style = f"end {ink(colour)}" if finding.distinguishable else "tick"
    marks.append(tag("text", text, class_=style, x=x.stop + 12, y=y + 4))
    return marks
