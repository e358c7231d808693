"""Eyes, brows, nostrils, mouth and folds: soft shapes painted on the surface of the head.

Every shape is a function of the head coordinates (x, y) of the surface point under a pixel, evaluated only in the
window of the picture around the projected feature: so it follows pose and perspective and has no texture resolution.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

from vplface_synthetic import noise
from vplface_synthetic.conditions import Conditions
from vplface_synthetic.cover import linear
from vplface_synthetic.head import Camera, Hits, step
from vplface_synthetic.identity import Identity

Patch = Float32[np.ndarray, "h w"]
Planes = Float32[np.ndarray, "3 112 112"]


def paint_features(
    colour: Planes, visible: Float32[np.ndarray, "112 112"], hits: Hits, view: Camera,
    identity: Identity, conditions: Conditions,
) -> None:  # fmt: skip
    """Paint the features of the face into ``colour`` (linear albedo), where ``visible`` is positive."""
    i, c = identity, conditions
    outer, high, low = i.eye_x + 12.5, i.brow_y - 7.0 - 2.0 * c.brow_raise, i.eye_y + 8.0
    half, nose, mouth = i.wings + 3.0, i.nose_y + 1.0, i.mouth_y
    corners = (
        (-outer, high, 27.0), (outer, high, 27.0), (-outer, low, 27.0), (outer, low, 27.0),
        (0.0, high, 42.0), (0.0, low, 46.0),
        (-half, nose - 3.0, 42.0), (half, nose - 3.0, 42.0), (-half, nose + 8.0, 44.0), (half, nose + 8.0, 44.0),
        (0.0, nose + 4, 54.0), (0.0, nose + 4, 44.0),
        (-24.0, nose, 35.0), (24.0, nose, 35.0), (-20.0, mouth + 14.0, 35.0), (20.0, mouth + 14.0, 35.0),
        (0.0, mouth, 46.0), (0.0, mouth + 14.0, 43.0),
    )  # fmt: skip
    places = view.project(np.array(corners, dtype=np.float32)).reshape(3, 6, 2)
    low_ends, high_ends = places.min(axis=1).tolist(), places.max(axis=1).tolist()
    for paint, (left, top), (right, bottom) in zip((_eyes, _nostrils, _mouth), low_ends, high_ends, strict=True):
        box = (slice(max(int(top), 0), min(int(bottom) + 1, 112)), slice(max(int(left), 0), min(int(right) + 1, 112)))
        if box[0].stop - box[0].start < 2 or box[1].stop - box[1].start < 2:
            continue
        window = colour[:, box[0], box[1]]
        brush = _Brush(window.copy(), visible[box].copy())
        paint(brush, hits.x[box].copy(), hits.y[box].copy(), i, c)
        window[:] = brush.planes


class _Brush:
    """Blends paints into a window of the picture."""

    def __init__(self, planes: Float32[np.ndarray, "3 h w"], visible: Patch) -> None:
        self.planes = planes
        self._visible = visible

    def paint(self, mask: Patch, paint: tuple[float, float, float], texture: Patch | None = None) -> None:
        """Blend towards a linear colour, times ``texture`` where given."""
        mask = mask * self._visible
        if texture is None:
            for plane, level in zip(self.planes, paint, strict=True):
                plane += mask * (level - plane)
            return
        texture = texture * mask
        keep = _ONE - mask
        for plane, level in zip(self.planes, paint, strict=True):
            plane *= keep
            plane += texture * level

    def darken(self, mask: Patch, warmth: float = 0.0) -> None:
        """Multiply by 1 − mask; with warmth, green and blue more than red."""
        mask = mask * self._visible
        keep = _ONE - mask
        if warmth == 0.0:
            self.planes *= keep
        else:
            self.planes[1:] *= keep
            mask *= 1.0 - warmth
            self.planes[0] *= np.subtract(_ONE, mask, out=mask)


_ONE = np.array(1.0, dtype=np.float32)


def _eyes(brush: _Brush, x: Patch, y: Patch, i: Identity, c: Conditions) -> None:
    outward = np.abs(x)
    _brow(brush, outward, y, i, c)
    _eye(brush, outward, y, np.sign(x), i, c)


def _line(distance: Patch, width: float) -> Patch:
    """A soft line where ``distance`` is 0."""
    line: Patch = cv2.exp(np.square(distance) * (-0.5 / (width * width)))
    return line


def _eye(brush: _Brush, x: Patch, y: Patch, side: Patch, i: Identity, c: Conditions) -> None:
    u = x - i.eye_x
    v = y - i.eye_y + (i.eye_tilt / i.eye_width) * u
    across = u * (1.0 / i.eye_width)
    bow = np.maximum(1.0 - np.square(across), 0.0)
    squint = max(c.smile, 0.0)
    lids = min(max(c.lids + 0.12 * c.brow_raise - 0.16 * squint - 0.05 * (c.age - 38.0) / 20.0, 0.06), 1.35)
    upper = (-i.eye_open * lids) * bow * (1.0 + i.eye_skew * across)
    lower = (2.3 * min(lids * 1.3, 1.0) - 0.7 * squint) * bow
    over = v - upper
    off = np.abs(across)
    inside = step(np.minimum(np.minimum(over, lower - v), (1.0 - off) * 9.0), 1.1)
    # Skin around the eye: crease of the lid, bags, make-up.
    near = step(1.25 - off, 0.5)
    dark = _line(over + (i.lid_fold * (0.4 + 0.6 * lids)), 0.75) * (0.9 * min(max(i.lid_crease, 0.0), 0.9))
    dark += _line(v - lower - 3.0, 0.9) * min(0.10 + 0.012 * max(c.age - 34.0, 0.0), 0.5)
    if c.make_up > 0:
        dark += step(-over, 2.0) * step(over + 6.0, 4.0) * (0.45 * c.make_up * (1.0 - i.lid_crease * 0.5))
    brush.darken(dark * near, 0.1)
    # The ball: sclera shaded under the upper lid and towards the corners, iris with a dark ring, pupil, highlight.
    gaze = c.gaze_x * side + np.float32(0.25)
    shade = 0.42 + 0.58 * step(over - 1.3, 4.0)
    shade *= 1.0 - 0.35 * np.square(across)
    brush.paint(inside, (0.76, 0.70, 0.67), shade)
    du, dv = u - gaze, v - (c.gaze_y - 0.6)
    ring = cv2.magnitude(du, dv)
    depth = (1.05 - 0.55 * step(ring - i.iris_radius + 0.9, 1.2) + 0.5 * step(dv - 1.0, 3.0)) * (0.55 + 0.45 * shade)
    depth *= step(ring - 1.75, 1.0)
    iris = linear((i.iris[0] * 1.15, i.iris[1] * 1.15, i.iris[2] * 1.15))
    brush.paint(inside * step(i.iris_radius - ring, 1.1), iris, depth)
    light = np.square(du - (1.4 if c.light_x > 0 else -1.4) * side) + np.square(dv + 1.5)
    brush.paint(inside * cv2.exp(light * -0.9), (1.3, 1.3, 1.3))
    # Lashes.
    lash = 0.72 + 0.28 * c.make_up - 0.1 * i.masculine
    ends = step(1.06 - off, 0.14)
    lashes = _line(over, 0.75 + 0.25 * c.make_up) * min(lash, 0.96)
    lashes += _line(v - lower, 0.6) * (0.32 + 0.3 * c.make_up)
    brush.darken(np.minimum(lashes, 0.97) * ends)


def _brow(brush: _Brush, x: Patch, y: Patch, i: Identity, c: Conditions) -> None:
    t = (x - (i.eye_x + 0.5)) * (1.0 / i.brow_length)
    raised = 1.9 * c.brow_raise
    centre = i.brow_y - raised - i.brow_arch * (1.0 - np.square(t - 0.3)) + i.brow_tilt * t - i.brow_inner * 0.4
    centre += (0.35 * c.brow_raise) * np.minimum(t, 0.0)
    thick = i.brow_thickness * (1.0 - 0.55 * np.maximum(t, 0.0)) * (1.0 + 0.15 * (c.age - 38.0) / 20.0)
    mask = step(np.minimum(thick - np.abs(y - centre), (1.0 - np.abs(t)) * 5.6), 1.7)
    strands = cv2.remap(noise.HAIRS, x * 2.5 + y + 150.0 + i.texture[0], y * 2.5 - x + 150.0, cv2.INTER_LINEAR)
    mask *= np.minimum(np.maximum(i.brow_density + 0.14 * strands, 0.0), 0.96)
    brush.paint(mask, linear((c.hair[0] * 0.75, c.hair[1] * 0.72, c.hair[2] * 0.72)))


def _nostrils(brush: _Brush, x: Patch, y: Patch, i: Identity, c: Conditions) -> None:
    x = np.abs(x)
    w, base = i.wings, i.nose_y + 4.6 - 0.6 * i.nose_upturn
    hole = np.square((x - 0.50 * w) * (1.0 / (0.30 * w))) + np.square((y - base + 0.10 * (x - 3.0)) * (1.0 / 1.35))
    dark = cv2.exp(hole * -0.7) * 0.80
    wing = cv2.magnitude((x - 0.62 * w) * 0.9, y - base + 2.2)
    outside = step(np.minimum(x - 0.74 * w, (y - base + 5.5) * 0.7), 2.0)
    dark += _line(wing - 0.46 * w, 0.8) * outside * 0.34
    dark += _line(y - base - 1.6, 1.1) * step(0.75 * w - x, 3.0) * 0.22
    brush.darken(np.minimum(dark, 0.9), 0.15)


def _mouth(brush: _Brush, x: Patch, y: Patch, i: Identity, c: Conditions) -> None:
    smile, gape = c.smile, 5.5 * c.open
    half = i.mouth_width * (1.0 + 0.13 * smile - 0.10 * min(c.open, 0.8))
    m = x * (1.0 / half)
    m2 = np.square(m)
    bow = np.maximum(1.0 - m2, 0.0)
    middle = i.mouth_y + (0.9 * smile) - (3.2 * smile + i.mouth_corner) * m2
    ax = np.abs(x)
    off = np.abs(m)
    ends = (1.0 - off) * 8.0
    full = 1.0 - 0.12 * smile
    dip = 1.0 - i.cupid_bow * _line(x, 2.6)
    top = middle - 0.35 * gape * bow - (i.upper_lip * full) * bow * dip * (1.0 + 0.3 * _line(ax - 4.5, 3.0))
    inner_top = middle - 0.35 * gape * bow
    inner_low = middle + gape * bow
    bottom = inner_low + (i.lower_lip * full) * bow
    lips = step(np.minimum(np.minimum(y - top, bottom - y), ends), 1.3)
    red = min(max(i.lip_darkness, 0.05), 0.6) + 0.1
    brush.darken(lips * (red * 0.85), 0.48)
    if c.make_up > 0.15:
        brush.paint(lips * min(0.25 + 0.65 * c.make_up, 0.85), linear(c.lipstick), 0.92 + 0.16 * step(y - middle, 2.0))
    if gape > 0.4:
        hollow = step(np.minimum(np.minimum(y - inner_top, inner_low - y), ends), 1.0)
        brush.paint(hollow, (0.045, 0.012, 0.012))
        teeth = hollow * step(inner_top + min(0.45 * gape + 2.4 * max(smile, 0.0), 3.6) - y, 1.0)
        gaps = 0.92 + 0.08 * np.cos(x * 2.3)
        brush.paint(teeth * step(0.82 - off, 0.2), (0.66, 0.62, 0.54), gaps * (0.55 + 0.45 * step(0.6 - off, 0.5)))
        brush.paint(hollow * step(y - inner_low + 2.5, 2.0) * 0.6, (0.22, 0.06, 0.06))
    ends = step(ends, 1.3)
    dark = _line(y - inner_top, 0.65) * ends * 0.62
    dark += _line(y - bottom - 1.5, 1.2) * ends * 0.2
    dark += _line(ax - half - 0.3, 1.1) * _line(y - middle, 1.5) * (0.30 + 0.15 * max(smile, 0.0))
    # Fold from the wing of the nose to beside the corner of the mouth.
    start_y, end_y = i.nose_y + 2.0, i.mouth_y + 1.0
    t = (y - start_y) * (1.0 / (end_y - start_y))
    fold = i.wings + 1.5 + (half + 4.5 + 1.5 * smile - i.wings - 1.5) * t
    strength = 0.10 + 0.30 * max(smile, 0.0) + 0.011 * max(c.age - 32.0, 0.0)
    dark += _line(ax - fold, 1.1) * step(np.minimum(t - 0.12, 0.95 - t), 0.4) * min(strength, 0.5)
    brush.darken(np.minimum(dark, 0.9), 0.2)
