"""The head as a surface: distance from the head's vertical axis over (angle, height), and how rays meet it.

A point of the head is (r sin θ, y, r cos θ) with r = radius(θ, y): one map holds face, neck and ears, and hair, hats
and masks only make the radius larger. Features of the face are bumps that are products of a function of y and one of
θ, so that the whole map is one product of two small matrices.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from vplface_synthetic.conditions import Conditions
from vplface_synthetic.identity import Identity

HEIGHT, WIDTH = 96, 112
TOP, BOTTOM = -72.0, 62.0
EDGE = math.radians(125.0)
Y = np.linspace(TOP, BOTTOM, HEIGHT, dtype=np.float32)
THETA = np.linspace(-EDGE, EDGE, WIDTH, dtype=np.float32)
SIN, COS = np.sin(THETA), np.cos(THETA)
FRONT = COS > 0
SURFACE_X = 40.0  # pixels of surface per radian: bumps are placed by x = 40 θ
_Y_COLUMN, _X_ROW = Y[:, None], SURFACE_X * THETA

Map = Float32[np.ndarray, "96 112"]

_KNOTS = (-76.0, -70.0, -62.0, -52.0, -40.0, -24.0, -8.0, 8.0, 22.0, 36.0, 50.0, 76.0)
_SIDE = (-30.0, 6.0, 20.0, 29.5, 35.0, 38.0, 38.8, 37.8, 35.0, 31.0, 27.0, 26.0)
_FACE = (-30.0, 8.0, 22.0, 33.0, 39.0, 41.0, 40.5, 40.0, 40.0, 39.5, 38.0, 36.0)
_BACK = (-30.0, 9.0, 26.0, 38.0, 45.0, 47.0, 46.0, 42.0, 36.0, 33.0, 32.0, 32.0)


def profile(values: tuple[float, ...]) -> Float32[np.ndarray, " 96"]:
    """A smooth function of y through values at `_KNOTS`."""
    smooth: Float32[np.ndarray, " 96"] = cv2.GaussianBlur(
        np.interp(Y, _KNOTS, values).astype(np.float32)[:, None], (1, 0), 1.0, sigmaY=3.0
    )[:, 0]
    return smooth


SIDE, FACE, BACK = profile(_SIDE), profile(_FACE), profile(_BACK)
_LOW = profile((0.0,) * 7 + (0.0, 0.7, 1.0, 0.8, 0.5))
_MIDDLE = profile((0.0,) * 5 + (0.5, 0.8, 1.0, 1.0, 0.8, 0.4, 0.0))
_HIGH = profile((0.0, 0.3, 0.7, 1.0, 1.0, 0.6) + (0.0,) * 6)


class Bump(NamedTuple):
    """A soft bump: amplitude, centre (y, x), extents above and below the centre, and along x."""

    amplitude: float
    y: float
    x: float
    above: float
    below: float
    wide: float


def bumps(items: list[Bump]) -> Map:
    """The sum of soft bumps, Σ a·exp(−(y−y₀)²/2σ²)·exp(−(x−x₀)²/2τ²)."""
    amplitude, y, x, above, below, wide = np.array(items, dtype=np.float32).T
    dy = _Y_COLUMN - y
    dy /= np.where(dy < 0, above, below)
    dx = _X_ROW - x[:, None]
    dx /= wide[:, None]
    rows = cv2.exp(np.square(dy) * -0.5)
    rows *= amplitude
    total: Map = cv2.gemm(rows, cv2.exp(np.square(dx) * -0.5), 1.0, None, 0.0)
    return total


def step(values: Float32[np.ndarray, "*shape"], width: float) -> Float32[np.ndarray, "*shape"]:
    """A soft step from 0 to 1 around 0, ``width`` wide."""
    ramp = values * (1.0 / width)
    ramp += _HALF
    if ramp.size > 6000:  # OpenCV is quicker on large arrays, numpy on small ones
        cv2.threshold(ramp, 0.0, 0.0, cv2.THRESH_TOZERO, ramp)
        cv2.threshold(ramp, 1.0, 0.0, cv2.THRESH_TRUNC, ramp)
        return ramp
    return np.minimum(np.maximum(ramp, _ZERO, out=ramp), _ONE, out=ramp)


_ZERO, _HALF, _ONE = (np.array(value, dtype=np.float32) for value in (0.0, 0.5, 1.0))


_SQUARES = np.stack([np.square(SIN), np.square(COS) * FRONT, np.square(COS) * ~FRONT]).astype(np.float32)


def ellipse(
    side: Float32[np.ndarray, " 96"], face: Float32[np.ndarray, " 96"], back: Float32[np.ndarray, " 96"]
) -> Map:
    """Horizontal sections as ellipses, one for the front half and one for the back half."""
    inverse = 1.0 / np.square(np.maximum(np.stack([side, face, back], axis=1), 0.5))
    radius: Map = 1.0 / cv2.sqrt(cv2.gemm(inverse, _SQUARES, 1.0, None, 0.0))
    radius[:4] = -5.0  # nothing above the crown
    return radius


def jaw_line(identity: Identity, drop: float) -> Float32[np.ndarray, " 112"]:
    """The height of the lower edge of the face, by angle; ``drop`` is how far the jaw is open."""
    turned = np.minimum(1.0 - COS, 1.3)
    return identity.chin_y + drop - identity.jaw_rise * turned ** np.float32(identity.chin_point)


@lru_cache(maxsize=512)
def _relief(i: Identity) -> Map:
    """The features of a face at rest; kept, because each picture of an identity needs it (50 kB each)."""
    w, e = i.wings, i.eye_x
    half: list[Bump] = []
    for s in (-1.0, 1.0):
        half += [
            Bump(-i.socket, i.eye_y - 1, s * e * 0.98, 6.0, 6.0, 8.5),
            Bump(1.6, i.eye_y, s * (e + 1), 3.6, 3.6, 6.5),
            Bump(i.brow_ridge, i.brow_y + 1.5, s * (e - 2), 3.5, 4.0, 10.0),
            Bump(i.wing_height, i.nose_y + 2.6, s * w * 0.86, 3.6, 2.4, 2.6),
            Bump(i.cheekbone, 2.0, s * 29.0, 7.0, 7.0, 9.0),
            Bump(-1.3, -26.0, s * 38.0, 9.0, 9.0, 7.0),
            Bump(i.ear_out, i.eye_y + 10.0, s * 63.0, i.ear_size * 0.75, i.ear_size * 0.6, 4.0),
            Bump(-0.4 * i.ear_out, i.eye_y + 9.0, s * 60.0, 4.5, 5.5, 2.2),
        ]
    relief = bumps(
        [
            *half,
            Bump(i.bridge, i.nose_y - 15.0, 0.0, 6.5, 9.0, i.bridge_width),
            Bump(i.bridge_hump, i.nose_y - 9.0, 0.0, 3.5, 3.5, 3.5),
            Bump(i.nose_tip * 0.75, i.nose_y - 3.0, 0.0, 8.0, 4.0, i.nose_tip_width),
            Bump(i.nose_tip * 0.62, i.nose_y + 1.2 - i.nose_upturn, 0.0, 4.4, 3.4, i.nose_tip_width * 0.85),
            Bump(i.mouth_forward, i.mouth_y, 0.0, 8.0, 10.0, 15.0),
            Bump(-1.0, i.mouth_y - 9.0, 0.0, 4.0, 3.0, 2.4),
            Bump(0.42 * i.upper_lip, i.mouth_y - 2.6, 0.0, 2.6, 1.8, 8.0),
            Bump(0.42 * i.lower_lip, i.mouth_y + 3.4, 0.0, 1.8, 2.4, 8.0),
            Bump(-2.0, i.mouth_y + 10.0, 0.0, 3.0, 3.0, 10.0),
            Bump(i.chin_ball, i.chin_y - 4.5, 0.0, 5.0, 4.0, 8.0),
        ]
    )
    relief.flags.writeable = False
    return relief


_FAT = bumps([Bump(1.0, 19.0, x, 9.0, 9.0, 9.0) for x in (-25.0, 25.0)])
_SMILE = bumps([Bump(2.6, 8.0, x, 6.0, 6.0, 8.0) for x in (-21.0, 21.0)])


def head_radius(identity: Identity, conditions: Conditions) -> tuple[Map, Float32[np.ndarray, " 96"]]:
    """The radius of the bare head with its expression, and the half width of the skull by height."""
    i, c = identity, conditions
    drop = 4.0 * c.open
    wide = i.face_width / 38.5
    side = SIDE * wide + (i.jaw_width + 0.8 * c.weight) * _LOW
    face = FACE + (i.face_depth - 41.0) + i.forehead * _HIGH
    radius = ellipse(side, face, BACK * wide)
    neck = i.neck + 0.8 * c.weight - 9.0 * COS
    keep = step(jaw_line(i, drop)[None, :] - _Y_COLUMN, 9.0)
    keep *= keep * (3.0 - 2.0 * keep)
    radius -= neck
    radius *= keep
    radius += neck
    radius += lowered(_relief(i), i.mouth_y, drop)
    radius += (i.cheek_fat + 1.3 * c.weight + 0.035 * (c.age - 38.0)) * _FAT
    if c.smile > 0:
        radius += c.smile * _SMILE
    return radius, side


def lowered(values: Map, mouth_y: float, drop: float) -> Map:
    """A map of the face with what lies below the mouth moved down with the jaw, by ``drop``."""
    if drop < 0.3:
        return values
    rows = (Y - TOP - drop * np.clip((Y - mouth_y + 3.0) * 0.1, 0.0, 1.0)) * _MAP_Y
    above = rows.astype(np.int32)
    part = (rows - above)[:, None].astype(np.float32)
    upper = values[above]
    moved: Map = upper + part * (values[np.minimum(above + 1, HEIGHT - 1)] - upper)
    return moved


class Camera(NamedTuple):
    """A scaled orthographic camera: picture = matrix · head + centre.

    ``matrix`` is the scale and turn in the picture's plane, the complex number ``turn``, times the first two rows of
    ``rotation``; its third row is the axis towards the camera. ``centre`` is complex too.
    """

    rotation: Float32[np.ndarray, "3 3"]
    turn: complex
    centre: complex
    matrix: Float32[np.ndarray, "3 2"]

    def project(self, points: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 2"]:
        """Head points to picture coordinates."""
        places: Float32[np.ndarray, "n 2"] = points @ self.matrix
        places += np.array([self.centre.real, self.centre.imag], dtype=np.float32)
        return places


TEMPLATE = np.array([38.3 + 51.7j, 73.5 + 51.5j, 56.0 + 71.7j, 41.5 + 92.4j, 70.7 + 92.2j])


def camera(identity: Identity, conditions: Conditions, radius: Map) -> Camera:
    """Turn the head and align it as face recognisers do: the five landmarks onto the 112x112 template.

    The similarity transform is the least-squares one (Umeyama 1991), in complex numbers; crop jitter is added.
    """
    i, c = identity, conditions
    cy, sy, cp, sp = math.cos(c.yaw), math.sin(c.yaw), math.cos(c.pitch), math.sin(c.pitch)
    rotation = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]], dtype=np.float32)
    half = i.mouth_width + 1.5 * c.smile
    xy = [(-i.eye_x, i.eye_y), (i.eye_x, i.eye_y), (0.0, i.nose_y), (-half, i.mouth_y), (half, i.mouth_y)]
    points = np.array([(x, y, height_at(radius, x, y)) for x, y in xy], dtype=np.float32)
    seen = points @ rotation.T
    flat = seen[:, 0] + 1j * seen[:, 1]
    middle, goal = flat.mean(), TEMPLATE.mean()
    spread = flat - middle
    turn = complex((spread.conj() * (TEMPLATE - goal)).sum() / (np.abs(spread) ** 2).sum())
    turn *= c.zoom * complex(math.cos(c.roll), math.sin(c.roll))
    plane = np.array([[turn.real, turn.imag], [-turn.imag, turn.real]], dtype=np.float32)
    centre = complex(goal - turn * middle) + complex(c.shift_x, c.shift_y)
    return Camera(rotation, turn, centre, rotation[:2].T @ plane)


def height_at(radius: Map, x: float, y: float) -> float:
    """The z of the surface point seen from the front at (x, y)."""
    row = min(max(int((y - TOP) / (BOTTOM - TOP) * (HEIGHT - 1) + 0.5), 0), HEIGHT - 1)
    z = 40.0
    for _ in range(2):
        column = int((math.atan2(x, z) + EDGE) / (2 * EDGE) * (WIDTH - 1) + 0.5)
        z = math.sqrt(max(float(radius[row, column]) ** 2 - x * x, 1.0))
    return z


class Hits(NamedTuple):
    """Where the rays of the 112x112 pixels meet the head, in the head's frame."""

    x: Float32[np.ndarray, "112 112"]
    y: Float32[np.ndarray, "112 112"]
    z: Float32[np.ndarray, "112 112"]
    radius: Float32[np.ndarray, "112 112"]
    column: Float32[np.ndarray, "112 112"]
    row: Float32[np.ndarray, "112 112"]
    cover: Float32[np.ndarray, "112 112"]


def cast_rays(view: Camera, radius: Map) -> Hits:
    """March every pixel's ray onto the surface: quarter and half resolution first, then one refinement.

    A step is the distance to the surface along the head's radius, with a positive minimum: rays that graze a cheek
    go on to the hair behind it.
    """
    right, down, near = view.rotation[2].tolist()
    fall = down * _MAP_Y
    depth = np.full((28, 28), 68.0, dtype=np.float32)
    for side, steps in ((28, 6), (56, 4)):
        if side == 56:
            depth = cv2.resize(cv2.dilate(depth, _THREE), (56, 56), interpolation=cv2.INTER_LINEAR)
        x0, y0, z0 = _ray_origins(view, _GRIDS[side])
        row0 = (y0 - TOP) * _MAP_Y
        for _ in range(steps):
            distance, column = _place(x0 - right * depth, z0 - near * depth)
            row = row0 + fall * depth
            gap = cv2.subtract(distance, cv2.remap(radius, column, row, cv2.INTER_LINEAR))
            depth -= np.minimum(gap + cv2.threshold(gap, 0.7, 1.5, cv2.THRESH_BINARY)[1], _LONGEST)
    # A ray still in front of the silhouette moves slowly because it is close to the surface: it counts as a hit.
    cover = cv2.resize(step(np.maximum(1.0 - gap, depth + 8.0), 1.8), (112, 112), interpolation=cv2.INTER_LINEAR)
    depth = cv2.resize(depth, (112, 112), interpolation=cv2.INTER_LINEAR)
    x0, y0, z0 = _ray_origins(view, _GRIDS[112])
    x0 -= right * depth
    y0 += down * depth
    z0 -= near * depth
    distance, column = _place(x0, z0)
    row = (y0 - TOP) * _MAP_Y
    return Hits(np.negative(x0, out=x0), y0, np.negative(z0, out=z0), distance, column, row, cover)


_THREE = np.ones((3, 3), dtype=np.uint8)
_LONGEST = np.array(16.0, dtype=np.float32)
_GRIDS = {side: (np.arange(side, dtype=np.float32) + 0.5) * (112 / side) - 0.5 for side in (28, 56, 112)}
_MAP_X, _MAP_Y = (WIDTH - 1) / (2 * EDGE), (HEIGHT - 1) / (BOTTOM - TOP)


def _ray_origins(view: Camera, grid: Float32[np.ndarray, " n"]) -> tuple[Float32[np.ndarray, "n n"], ...]:
    """Where the rays through a grid of pixels cross the plane of the head's centre: -x, y and -z of the head."""
    back = 1.0 / view.turn
    start = -view.centre * back
    across, down = np.float32(back.real), np.float32(back.imag)
    u = (across * grid + np.float32(start.real))[None, :] - (down * grid)[:, None]
    v = (down * grid + np.float32(start.imag))[None, :] + (across * grid)[:, None]
    (a, b, c), (d, e, f) = view.rotation[0].tolist(), view.rotation[1].tolist()
    return -a * u - d * v, b * u + e * v, -c * u - f * v


def _place(
    x: Float32[np.ndarray, "n n"], z: Float32[np.ndarray, "n n"]
) -> tuple[Float32[np.ndarray, "n n"], Float32[np.ndarray, "n n"]]:
    """The distance of the points (-x, ·, -z) from the axis, and their column on the map.

    Turned about the axis like this, angles run from 0 to 2π with the face at π and the seam at the back.
    """
    distance, column = cv2.cartToPolar(z, x)
    column -= _SEAM
    column *= _PER_COLUMN
    return distance, column


_SEAM, _PER_COLUMN = (np.array(value, dtype=np.float32) for value in (math.pi - EDGE, _MAP_X))
