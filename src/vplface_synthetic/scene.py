"""Scene around the head: background, shoulders, glasses and objects in front of the face."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vplface_synthetic import noise
from vplface_synthetic.conditions import Conditions
from vplface_synthetic.head import Camera, Map, height_at
from vplface_synthetic.identity import Identity

Image: TypeAlias = UInt8[np.ndarray, "112 112 3"]


def background(view: Camera, conditions: Conditions) -> Image:
    """Blurred colours, sometimes with vertical or horizontal edges, and the shoulders."""
    a, b, c, d, e, f, g, h = conditions.seeds
    cells = 2 + int(5 * a * a)
    blobs = noise.window(noise.GRAIN, b, cells, cells) * (10.0 + 50.0 * c)
    tone = (0.08 + 0.80 * d, 0.08 + 0.80 * (0.8 * d + 0.2 * e), 0.08 + 0.80 * (0.7 * d + 0.3 * f))
    small = np.clip(blobs + np.array([255.0 * v for v in tone], dtype=np.float32), 0.0, 255.0).astype(np.uint8)
    scene = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC if a < 0.6 else cv2.INTER_LINEAR)
    if g > 0.5:
        x, wide = int(240 * (g - 0.5)), int(8 + 50 * h)
        shade = (200.0 * e, 200.0 * f, 200.0 * a)
        cv2.rectangle(scene, (x - wide, -2), (x, 114 if h > 0.4 else int(90 * a)), shade, -1)
    clothes = tuple(255.0 * v for v in conditions.clothes)
    chest = view.project(np.array([[0.0, 112.0, -14.0]], dtype=np.float32))[0].tolist()
    scale = abs(view.turn)
    axes = (int((78 + 14 * e) * scale), int((44 + 8 * f) * scale))
    cv2.ellipse(scene, (int(chest[0]), int(chest[1])), axes, 0, 0, 360, clothes, -1)
    painted: Image = scene
    return painted


_SHAPES = (
    [(np.cos(t), np.sin(t)) for t in np.linspace(0, 2 * np.pi, 20, endpoint=False)],
    [(np.sign(np.cos(t)) * abs(np.cos(t)) ** 0.45, np.sign(np.sin(t)) * abs(np.sin(t)) ** 0.5)
     for t in np.linspace(0, 2 * np.pi, 24, endpoint=False)],
    [(np.cos(t) * (1 - 0.12 * np.sin(t)), np.sin(t) * (0.85 if np.sin(t) < 0 else 1.05))
     for t in np.linspace(0, 2 * np.pi, 20, endpoint=False)],
)  # fmt: skip
_RIMS = tuple(np.array(shape, dtype=np.float32) for shape in _SHAPES)
_SIZES = ((9.6, 9.2), (12.0, 7.6), (11.8, 8.6))
_SHIFT = 4


def glasses(picture: Image, view: Camera, radius: Map, identity: Identity, conditions: Conditions) -> None:
    """Draw glasses: rims in front of the eyes, a bridge and the visible arm; kind 4 has dark lenses."""
    i, c = identity, conditions
    kind = (c.glasses - 1) if c.glasses < 4 else 1 + int(c.seeds[3] * 2)
    wide, high = _SIZES[kind]
    front = height_at(radius, 0.0, i.eye_y + 1.0) + 3.0
    tone = (
        (25, 22, 22) if c.seeds[4] < 0.6 or c.glasses == 4 else ((120, 95, 60) if c.seeds[4] < 0.8 else (95, 95, 105))
    )
    thick = 2 if kind == 1 and c.seeds[5] < 0.6 else 1
    for side in (-1.0, 1.0):
        rim = np.empty((len(_RIMS[kind]), 3), dtype=np.float32)
        rim[:, 0] = side * (i.eye_x + 0.6) + _RIMS[kind][:, 0] * wide * side
        rim[:, 1] = i.eye_y + 1.4 + _RIMS[kind][:, 1] * high
        rim[:, 2] = front - 0.006 * np.square(rim[:, 0])
        outline = _fixed(view.project(rim))
        if c.glasses == 4:
            cv2.fillPoly(picture, [outline], (28, 26, 30), cv2.LINE_AA, _SHIFT)
        cv2.polylines(picture, [outline], True, tone, thick, cv2.LINE_AA, _SHIFT)
        if side * c.yaw < 0.12:
            edge = side * (i.eye_x + 0.6 + wide)
            arm = np.array(
                [(edge, i.eye_y - 1, front - 0.006 * edge * edge), (side * (i.face_width + 3.0), i.eye_y + 1, 2.0)],
                dtype=np.float32,
            )
            cv2.polylines(picture, [_fixed(view.project(arm))], False, tone, thick, cv2.LINE_AA, _SHIFT)
    inner = i.eye_x + 0.6 - wide
    bridge = np.array([(-inner, i.eye_y - 1, front), (0, i.eye_y - 2.2, front + 1), (inner, i.eye_y - 1, front)])
    cv2.polylines(picture, [_fixed(view.project(bridge.astype(np.float32)))], False, tone, thick, cv2.LINE_AA, _SHIFT)


def _fixed(points: Float32[np.ndarray, "n 2"]) -> np.ndarray:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def in_the_way(picture: Image, conditions: Conditions) -> None:
    """A plain object in front of the face: a hand, a microphone, the edge of another head."""
    if conditions.patch == 0.0:
        return
    a, b, c = conditions.seeds[:3]
    tone = tuple(int(255 * v) for v in conditions.mask_colour)
    angle = 2 * np.pi * conditions.patch
    centre = (int(56 + 62 * np.cos(angle)), int(62 + 58 * np.sin(angle)))
    cv2.ellipse(picture, centre, (int(12 + 20 * a), int(10 + 16 * b)), 180 * c, 0, 360, tone, -1, cv2.LINE_AA)
