"""Drawings of a class as a point and as a distribution, on the sphere of the embeddings."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vplface.report.markup import Markup, join, tag
from vplface.report.plots import Plot
from vplface.report.record import Sphere

RADIUS = 200.0
SIDE = 440.0
SAMPLES = 600
CLOSE_SAMPLES = 120
COLOURS = 9


def pictures(sphere: Sphere) -> list[Plot]:
    """The point, the distribution and, where a memory is alive, one class close up."""
    view = viewpoint(sphere)
    alive = int((sphere.timer > 0).sum())
    figures = [
        Plot(
            "A class is a point",
            _with_symbols(
                "A softmax classifier compares each sample (dot) with one prototype *v* per class (disc), and with "
                "nothing else. A class of few pictures is soon memorised: its prototype sits between its samples, the "
                "loss is low, and the samples may still lie far from each other."
            ),
            _as_point(sphere, view),
        ),
        Plot(
            "A class is a distribution",
            _with_symbols(
                "The last feature *M* of a class (ring) is remembered for Δt steps and draws its prototype to *u* "
                "(star). Each sample is compared with prototypes and remembered samples of all classes at once, at no "
                "extra logit. Pale: where two thirds of the class's features lie; deep: of the prototypes that may be "
                f"drawn. Here {alive} of {len(sphere.timer)} memories are alive."
            ),
            _as_distribution(sphere, view),
        ),
    ]
    chosen = _class_to_show(sphere)
    if chosen is not None:
        figures.append(
            Plot(
                "One class close up",
                _with_symbols(
                    f"The sphere unrolled around *v*, with *λ* = {sphere.lam:.3g}. The prototype of this step, *u*, "
                    f"lies on the arc from *v* to *M*, which stays for {int(sphere.timer[chosen])} more steps. The "
                    "large dots are the samples of the class; the small dots are the prototypes that each of them, "
                    "once remembered, would give: the class as a distribution. Features drift slowly once training has "
                    "settled, so that a remembered feature is nearly what the network would output now."
                ),
                _close_up(sphere, chosen),
            )
        )
    return figures


def viewpoint(sphere: Sphere) -> Float[np.ndarray, "3 3"]:
    """The rotation that brings the fullest half of the sphere to the front; its rows are right, up and towards us."""
    k = np.arange(400) + 0.5
    polar, turn = np.arccos(1 - 2 * k / 400), np.pi * (1 + 5**0.5) * k
    directions = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)
    facing = np.maximum(directions @ sphere.prototypes.T, 0.0)
    alive = np.maximum(directions @ sphere.memory[sphere.timer > 0].T, 0.0)
    towards = directions[int(np.argmax(np.sqrt(facing).sum(axis=1) + np.sqrt(alive).sum(axis=1)))]
    pole = np.array([0.0, 0.0, 1.0]) if abs(towards[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(pole, towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def _as_point(sphere: Sphere, view: Float[np.ndarray, "3 3"]) -> Markup:
    canvas = _Globe(view, "Samples and prototypes on the sphere: a class is a point")
    for sample in _some(len(sphere.labels), SAMPLES):
        label = int(sphere.labels[sample])
        arc = geodesic(sphere.embeddings[sample], sphere.prototypes[label], 4)
        canvas.path(arc, f"spoke {_hue(label)}")
    _samples(canvas, sphere)
    for label, prototype in enumerate(sphere.prototypes):
        canvas.symbol(prototype, "disc", f"prototype {_hue(label)}", f"class {label}: prototype v")
    return canvas.svg()


def _as_distribution(sphere: Sphere, view: Float[np.ndarray, "3 3"]) -> Markup:
    canvas = _Globe(view, "Variational prototypes on the sphere: a class is a distribution")
    for label, prototype in enumerate(sphere.prototypes):
        own = sphere.embeddings[sphere.labels == label]
        for points, kind in (
            (own, "features"),
            (_normalised((1 - sphere.lam) * prototype + sphere.lam * own), "draws"),
        ):
            outline = spread(points)
            if outline is not None:
                canvas.path(outline, f"{kind} {_hue(label)}", closed=True)
    _samples(canvas, sphere)
    for label in map(int, np.flatnonzero(sphere.timer > 0)):
        arc = geodesic(sphere.prototypes[label], sphere.memory[label], 12)
        canvas.path(arc, f"arc {_hue(label)}")
        canvas.symbol(
            sphere.memory[label],
            "ring",
            f"memory {_hue(label)}",
            f"class {label}: remembered feature M, {int(sphere.timer[label])} steps left",
        )
    for label, drawn in enumerate(sphere.variational):
        canvas.symbol(sphere.prototypes[label], "small", f"prototype {_hue(label)}", f"class {label}: prototype v")
        if sphere.timer[label] > 0:
            canvas.symbol(drawn, "star", f"drawn {_hue(label)}", f"class {label}: variational prototype u")
    return canvas.svg()


def _samples(canvas: _Globe, sphere: Sphere) -> None:
    for sample in _some(len(sphere.labels), SAMPLES):
        canvas.symbol(sphere.embeddings[sample], "point", f"sample {_hue(int(sphere.labels[sample]))}")


def _close_up(sphere: Sphere, label: int) -> Markup:
    """The azimuthal map around v, turned so that M lies to the upper right."""
    prototype, memory, drawn = (part[label] for part in (sphere.prototypes, sphere.memory, sphere.variational))
    own = sphere.embeddings[sphere.labels == label]
    own = own[_some(len(own), CLOSE_SAMPLES)]
    possible = _normalised((1 - sphere.lam) * prototype + sphere.lam * own)
    flat = unrolled(np.concatenate([memory[None], drawn[None], own, possible]), prototype)
    turn = np.deg2rad(32) - np.arctan2(flat[0, 1], flat[0, 0])
    flat = flat @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    reach = 1.12 * max(
        float(np.linalg.norm(flat[0])), float(np.quantile(np.linalg.norm(flat[2:], axis=1), 0.97)) if len(own) else 0.0
    )
    pixels = np.stack([SIDE / 2 + flat[:, 0] / reach * RADIUS, SIDE / 2 - flat[:, 1] / reach * RADIUS], axis=1)
    centre = np.array([SIDE / 2, SIDE / 2])
    m, u, own_at, possible_at = pixels[0], pixels[1], pixels[2 : 2 + len(own)], pixels[2 + len(own) :]
    hue = _hue(label)

    parts = _rings(float(np.rad2deg(reach)))
    for at in own_at:
        if np.linalg.norm(at - centre) <= RADIUS:
            parts.append(tag("circle", class_=f"sample large {hue}", cx=float(at[0]), cy=float(at[1]), r=3.6))
    for at in possible_at:
        parts.append(tag("circle", class_=f"possible {hue}", cx=float(at[0]), cy=float(at[1]), r=1.9))
    for kind, end in (("arc", m), ("inject", u)):
        line = f"M{centre[0]:.1f} {centre[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"
        parts.append(tag("path", class_=f"{kind} {hue}", d=line))
    for at, shape, kind in ((centre, "disc", "prototype"), (m, "ring", "memory"), (u, "star", "drawn")):
        place = f"translate({at[0]:.1f} {at[1]:.1f}) scale(1.35)"
        parts.append(tag("path", class_=f"{kind} {hue}", d=SHAPES[shape], transform=place))
    return tag(
        "svg",
        [*parts, *_names(centre, m, u)],
        viewBox=f"0 0 {SIDE:.0f} {SIDE:.0f}",
        role="img",
        aria_label="One class close up: prototype, memory, variational prototype",
        class_="globe close",
    )


def _rings(degrees: float) -> list[Markup]:
    """The disc of the map with rings at round angles; its edge is ``degrees`` from the centre."""
    parts = [tag("circle", class_="lens", cx=SIDE / 2, cy=SIDE / 2, r=RADIUS)]
    step = next(s for s in (1, 2, 5, 10, 15, 30, 60) if degrees / s <= 4.5)
    for ring in range(step, int(degrees) + 1, step):
        radius = ring / degrees * RADIUS
        parts.append(tag("circle", class_="ring-line", cx=SIDE / 2, cy=SIDE / 2, r=radius))
        parts.append(
            tag("text", f"{ring}°", class_="tick halo", x=SIDE / 2, y=SIDE / 2 + radius + 4, text_anchor="middle")
        )
    return parts


def _names(v: Float[np.ndarray, " 2"], m: Float[np.ndarray, " 2"], u: Float[np.ndarray, " 2"]) -> list[Markup]:
    """The names of prototype, memory and variational prototype beside their places."""
    away = (u - v) / max(float(np.linalg.norm(u - v)), 1e-9)
    beside = np.array([away[1], -away[0]])
    names = (
        (v - 20 * away + np.array([0.0, 5.0]), "v", "prototype", "end"),
        (m + np.array([-2.0, -17.0]), "M", "remembered", "end"),
        (u - 20 * beside + np.array([0.0, 8.0]), "u", "drawn", "start"),
    )
    return [
        tag(
            "text",
            tag("tspan", symbol, class_="symbol"),
            f" {name}",
            class_="name halo",
            x=float(at[0]),
            y=float(at[1]),
            text_anchor=anchor,
        )
        for at, symbol, name, anchor in names
    ]


def geodesic(
    start: Float[np.ndarray, " 3"], end: Float[np.ndarray, " 3"], steps: int
) -> Float[np.ndarray, "{steps}+1 3"]:
    """Points along the great circle between two unit vectors."""
    share = np.linspace(0.0, 1.0, steps + 1)[:, None]
    angle = np.arccos(np.clip(start @ end, -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return _normalised((1 - share) * start + share * end)
    return np.asarray((np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle))


def unrolled(points: Float[np.ndarray, "n 3"], centre: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "n 2"]:
    """The azimuthal equidistant map around ``centre``: true angles (radians) and directions from it."""
    first, second = _tangents(centre)
    cosine = np.clip(points @ centre, -1.0, 1.0)
    flat = np.stack([points @ first, points @ second], axis=1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-12) * np.arccos(cosine)[:, None])


def spread(points: Float[np.ndarray, "n 3"], corners: int = 40) -> Float[np.ndarray, "corners 3"] | None:
    """The ellipse that holds two thirds of a cloud: 1.5 standard deviations.

    None for fewer than three points, and for a cloud so wide (beyond 45°) that an ellipse does not describe it.
    """
    if len(points) < 3:
        return None
    mean = _normalised(points.mean(axis=0, keepdims=True))[0]
    flat = unrolled(points, mean)
    centre, covariance = flat.mean(axis=0), np.cov(flat.T)
    sizes, axes = np.linalg.eigh(covariance)
    if 1.5 * np.sqrt(max(float(sizes[-1]), 0.0)) > np.deg2rad(45):
        return None
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outline = centre + 1.5 * (circle * np.sqrt(np.maximum(sizes, 0.0))) @ axes.T
    first, second = _tangents(mean)
    angle = np.linalg.norm(outline, axis=1, keepdims=True)
    direction = outline / np.maximum(angle, 1e-12)
    return np.asarray(np.cos(angle) * mean + np.sin(angle) * (direction[:, :1] * first + direction[:, 1:] * second))


SHAPES = {
    "point": "M-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0",
    "small": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "disc": "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0",
    "ring": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0",
    "star": "M"
    + "L".join(
        f"{r * np.sin(k * np.pi / 5):.2f} {-r * np.cos(k * np.pi / 5):.2f}"
        for k in range(10)
        for r in ((9.5, 4.2)[k % 2],)
    )
    + "Z",
}


class _Globe:
    """An orthographic view of the unit sphere; the page's script turns it by the ``data-at`` of its parts."""

    def __init__(self, view: Float[np.ndarray, "3 3"], label: str) -> None:
        self.view = view
        self.label = label
        self.parts: list[tuple[float, Markup]] = []
        turn = np.linspace(0, 2 * np.pi, 49)
        for longitude in np.deg2rad(np.arange(0, 180, 30)):
            self.path(
                np.stack([np.cos(turn) * np.cos(longitude), np.cos(turn) * np.sin(longitude), np.sin(turn)], axis=1),
                "graticule",
            )
        for latitude in np.deg2rad([-60, -30, 0, 30, 60]):
            self.path(
                np.stack(
                    [
                        np.cos(turn) * np.cos(latitude),
                        np.sin(turn) * np.cos(latitude),
                        np.full_like(turn, np.sin(latitude)),
                    ],
                    axis=1,
                ),
                "graticule",
            )

    def path(self, points: Float[np.ndarray, "k 3"], kind: str, *, closed: bool = False) -> None:
        """The front half of a line on the sphere; an area (``closed``) if it faces us."""
        seen = points @ self.view.T
        runs, pen_down = [], False
        behind = bool(seen[:, 2].mean() < 0)
        for x, y, z in seen:
            if closed or z >= 0:
                runs.append(f"{'L' if pen_down else 'M'}{_px(x)} {_px(-y)}")
            pen_down = closed or bool(z >= 0)
        d = "".join(runs) + ("Z" if closed else "")
        self._add(-2.0, "path", points, f"{kind} back" if closed and behind else kind, d=d, closed=closed)

    def symbol(self, point: Float[np.ndarray, " 3"], shape: str, kind: str, note: str | None = None) -> None:
        """A mark at a point of the sphere; one on the far side is faint."""
        x, y, z = self.view @ point
        self._add(
            float(z) if shape == "point" else 2.0 + float(z),
            "path",
            point[None],
            f"{kind} back" if z < 0 else kind,
            d=SHAPES[shape],
            transform=f"translate({_px(x)} {_px(-y)})",
            note=note,
        )

    def _add(
        self,
        order: float,
        name: str,
        points: Float[np.ndarray, "k 3"],
        kind: str,
        *,
        d: str,
        transform: str | None = None,
        note: str | None = None,
        closed: bool = False,
    ) -> None:
        at = " ".join(",".join(f"{c:.3f}".replace("0.", ".", 1) for c in point) for point in points)
        title = tag("title", note) if note else None
        self.parts.append(
            (
                order,
                tag(
                    name,
                    title,
                    class_=kind,
                    d=d or "M0 0",
                    transform=transform,
                    data_at=at,
                    data_closed="" if closed else None,
                ),
            )
        )

    def svg(self) -> Markup:
        """The parts, the nearer over the farther, on a shaded ball."""
        ordered = [part for _, part in sorted(self.parts, key=lambda part: part[0])]
        view = " ".join(f"{c:.4f}" for c in self.view.ravel())
        half = SIDE / 2
        return tag(
            "svg",
            tag("circle", class_="ball", cx=0.0, cy=0.0, r=RADIUS),
            ordered,
            viewBox=f"{-half:.0f} {-half:.0f} {SIDE:.0f} {SIDE:.0f}",
            role="img",
            aria_label=self.label,
            class_="globe turnable",
            data_view=view,
            data_radius=RADIUS,
        )


def _with_symbols(text: str) -> Markup:
    """Text in which the symbols between asterisks are set as mathematics."""
    parts = text.split("*")
    return join(*(tag("i", part, class_="symbol") if index % 2 else part for index, part in enumerate(parts)))


def _px(value: float) -> str:
    return f"{RADIUS * value:.1f}"


def _hue(label: int) -> str:
    return f"hue{label % COLOURS}"


def _some(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices, evenly spread, so that the page stays small."""
    if count <= most:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, most)]


def _normalised(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))


def _tangents(centre: Float[np.ndarray, " 3"]) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Two unit vectors that span the plane touching the sphere at ``centre``."""
    other = np.array([0.0, 0.0, 1.0]) if abs(centre[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    first = np.cross(other, centre)
    first /= np.linalg.norm(first)
    return first, np.cross(centre, first)


def _class_to_show(sphere: Sphere) -> int | None:
    """The class with a living memory that is the clearest to draw: M about 25° from v, and many samples around."""
    angle = np.arccos(np.clip(np.einsum("cd,cd->c", sphere.prototypes, sphere.memory), -1.0, 1.0))
    samples = np.bincount(sphere.labels, minlength=len(angle))
    fit = (sphere.timer > 0) & (angle > 0.01) & (angle < np.deg2rad(90))
    clarity = np.where(fit, np.minimum(samples, 20) / 20 - np.abs(angle - np.deg2rad(25)), -np.inf)
    return int(np.argmax(clarity)) if fit.any() else None
