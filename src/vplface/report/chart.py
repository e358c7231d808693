"""A chart with two axes as inline SVG: its colours and fonts come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from jaxtyping import Float

from vplface.printable import SUPERSCRIPT
from vplface.report.markup import Markup, tag


@dataclass(frozen=True)
class Scale:
    """Values to pixels, along a line or its logarithm."""

    low: float
    high: float
    start: float = 0.0
    stop: float = 1.0
    log: bool = False

    @overload
    def __call__(self, values: float) -> float: ...

    @overload
    def __call__(self, values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]: ...

    def __call__(self, values: Float[np.ndarray, " k"] | float) -> Float[np.ndarray, " k"] | float:
        """Pixels of the values; values outside the range are moved to its edge."""
        inside = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        low, high, at = (self.low, self.high, inside)
        if self.log:
            low, high, at = np.log10(low), np.log10(high), np.log10(inside)
        return self.start + (self.stop - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range: about ``count`` of them, or the decades of a logarithmic scale."""
        if self.log:
            decades = np.arange(np.ceil(np.log10(self.low) - 1e-9), np.floor(np.log10(self.high) + 1e-9) + 1)
            return [float(10.0**decade) for decade in decades[:: max(1, len(decades) // 7)]]
        rough = (self.high - self.low) / count
        unit = 10.0 ** np.floor(np.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first = np.ceil(self.low / step - 1e-9)
        return [float(step * i) for i in np.arange(first, np.floor(self.high / step + 1e-9) + 1)]


def span(values: Sequence[Float[np.ndarray, " k"]], *, at_zero: bool = False) -> tuple[float, float]:
    """A range that contains the finite values with a small margin; never empty."""
    joined = np.concatenate([np.zeros(0), *values])
    finite = joined[np.isfinite(joined)]
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if at_zero:
        low = min(low, 0.0)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        return low - (0.0 if at_zero and low == 0 else 0.5 * abs(low) or 0.5), high + (0.5 * abs(high) or 0.5)
    air = 0.06 * (high - low)
    return (low if at_zero and low == 0 else low - air), high + air


def short(value: float, *, percent: bool = False, log: bool = False) -> str:
    """A number as text for an axis or a label."""
    if abs(value) < 1e-12:
        return "0"
    if percent:
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
    if log and value > 0 and abs(np.log10(value) - round(np.log10(value))) < 1e-9:
        return "10" + str(round(np.log10(value))).translate(SUPERSCRIPT)
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}·10{str(int(exponent)).translate(SUPERSCRIPT)}"
    if abs(value) >= 10000:
        return f"{value / 1000:.4g}k"
    return f"{value:.3g}".replace("-", "−") if abs(value) < 100 else f"{value:.0f}".replace("-", "−")


@dataclass
class Chart:
    """Layers drawn in the order they are added, inside a frame with ticks and labels.

    ``colour`` is everywhere the number of an arm, or -1 for the neutral ink.
    """

    x: Scale
    y: Scale
    x_label: str
    label: str
    percent: bool = False
    width: float = 360.0
    height: float = 230.0
    margin: tuple[float, float, float, float] = (22, 46, 40, 42)
    layers: list[Markup] = field(default_factory=list)
    ends: list[tuple[float, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        top, right, bottom, left = self.margin
        self.x = Scale(self.x.low, self.x.high, left, self.width - right, self.x.log)
        self.y = Scale(self.y.low, self.y.high, self.height - bottom, top, self.y.log)

    def line(
        self,
        xs: Float[np.ndarray, " k"],
        ys: Float[np.ndarray, " k"],
        colour: int,
        *,
        dashed: bool = False,
        end: bool = False,
    ) -> None:
        """A line with a gap at every NaN; ``end`` writes the last value beside it."""
        finite = np.isfinite(ys)
        if not finite.any():
            return
        path, pen_down = [], False
        for at, to, drawn in zip(self.x(xs), self.y(np.where(finite, ys, self.y.low)), finite, strict=True):
            if drawn:
                path.append(f"{'L' if pen_down else 'M'}{at:.1f} {to:.1f}")
            pen_down = bool(drawn)
        self._add("path", colour, "line dashed" if dashed else "line", d="".join(path))
        if finite.sum() == 1:
            self.dot(float(xs[finite][0]), float(ys[finite][0]), colour)
        if end:
            value = float(ys[finite][-1])
            self.ends.append((float(self.y(value)), short(value, percent=self.percent), colour))

    def area(
        self,
        xs: Float[np.ndarray, " k"],
        low: Float[np.ndarray, " k"],
        high: Float[np.ndarray, " k"],
        colour: int,
        kind: str = "band",
    ) -> None:
        """The area between two lines without gaps."""
        if len(xs) == 0:
            return
        at = self.x(xs)
        corners = [*zip(at, self.y(high), strict=True), *zip(at[::-1], self.y(low)[::-1], strict=True)]
        self._add("path", colour, kind, d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z")

    def hill(
        self, edges: Float[np.ndarray, " edges"], density: Float[np.ndarray, " bins"], colour: int, word: str
    ) -> None:
        """A histogram from 0 up, with a word above its highest bin."""
        heights = np.repeat(density, 2)
        self.area(np.repeat(edges, 2)[1:-1], np.zeros_like(heights), heights, colour, "hill")
        peak = int(np.argmax(density))
        at, top = float(self.x((edges[peak] + edges[peak + 1]) / 2)), float(self.y(density[peak]))
        label = tag("text", word, class_=f"hill-label {ink(colour)}", x=at, y=top - 6, text_anchor="middle")
        self.layers.append(label)

    def dot(self, x: float, y: float, colour: int, note: str | None = None) -> None:
        """A point, with a note as its tooltip."""
        title = tag("title", note) if note else None
        self._add("circle", colour, "dot", title, cx=float(self.x(x)), cy=float(self.y(y)), r=3.2)

    def whisker(self, x: float, low: float, high: float, colour: int, shift: float = 0.0) -> None:
        """A vertical interval with caps."""
        at, bottom, top = float(self.x(x)) + shift, float(self.y(low)), float(self.y(high))
        self._add(
            "path",
            colour,
            "whisker",
            d=f"M{at:.1f} {bottom:.1f}V{top:.1f}M{at - 4:.1f} {bottom:.1f}h8M{at - 4:.1f} {top:.1f}h8",
        )

    def upright(self, x: float, text: str, colour: int = -1) -> None:
        """A dashed vertical line across the frame with a label at its top."""
        at, bottom, top = float(self.x(x)), self.y.start, self.y.stop
        self._add("path", colour, "upright", d=f"M{at:.1f} {bottom:.1f}V{top:.1f}")
        flip = at > self.x.start + 0.7 * (self.x.stop - self.x.start)
        self.layers.append(
            tag("text", text, class_="mark", x=at + (4 if flip else -4), y=top - 7, text_anchor="end" if flip else None)
        )

    def svg(self) -> Markup:
        """The finished picture as SVG."""
        left, right, bottom = self.x.start, self.x.stop, self.y.start
        frame: list[Markup] = []
        for value in self.y.ticks(round(self.height / 55)):
            at = float(self.y(value))
            frame.append(tag("path", class_="grid", d=f"M{left:.1f} {at:.1f}H{right:.1f}"))
            text = short(value, percent=self.percent, log=self.y.log)
            frame.append(tag("text", text, class_="tick", x=left - 7, y=at + 4, text_anchor="end"))
        for value in self.x.ticks():
            at = float(self.x(value))
            frame.append(tag("path", class_="tickmark", d=f"M{at:.1f} {bottom:.1f}v4"))
            text = short(value, log=self.x.log)
            frame.append(tag("text", text, class_="tick", x=at, y=bottom + 18, text_anchor="middle"))
        frame.append(tag("path", class_="axis", d=f"M{left:.1f} {bottom:.1f}H{right:.1f}"))
        middle = (left + right) / 2
        frame.append(tag("text", self.x_label, class_="axis-label", x=middle, y=self.height - 4, text_anchor="middle"))
        return tag(
            "svg",
            [*frame, *self.layers, *self._end_labels()],
            viewBox=f"0 0 {self.width:.0f} {self.height:.0f}",
            role="img",
            aria_label=self.label,
            class_="chart",
        )

    def _end_labels(self) -> list[Markup]:
        """The last values, pushed apart where they would overlap."""
        placed: list[Markup] = []
        lowest = -np.inf
        for at, text, colour in sorted(self.ends):
            lowest = max(at, lowest + 13)
            placed.append(tag("text", text, class_=f"end {ink(colour)}", x=self.x.stop + 6, y=lowest + 4))
        return placed

    def _add(self, name: str, colour: int, kind: str, child: Markup | None = None, **attributes: str | float) -> None:
        self.layers.append(tag(name, child, class_=f"{kind} {ink(colour)}", **attributes))


def ink(colour: int) -> str:
    """The style class of an arm's colour."""
    return "neutral" if colour < 0 else f"arm{colour % 6}"
