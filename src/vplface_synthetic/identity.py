"""Latent parameters of a generated person, which all pictures of one identity share.

Lengths are in pixels of an aligned 112x112 picture seen from the front. The head's own frame has its origin on the
vertical axis of the head, x to the picture's right, y down and z towards the camera; the eyes of the mean head lie at
(±18, -14), the mouth at y = 26 and the chin at y = 46.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

RGB = tuple[float, float, float]


class Mark(NamedTuple):
    """A mole or a scar: its place on the head (x along the surface, y), its half extents and its darkness."""

    x: float
    y: float
    width: float
    height: float
    darkness: float


def _latent(mean: float, spread: float) -> Any:
    """A field drawn from a normal distribution cut at ±2.2 spreads."""
    return dataclasses.field(metadata={"mean": mean, "spread": spread})


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """The latent parameters of one generated person; see `draw_identity`."""

    face_width: float = _latent(38.5, 2.0)
    face_depth: float = _latent(41.0, 1.8)
    chin_y: float = _latent(46.5, 2.4)
    chin_ball: float = _latent(3.2, 1.6)
    chin_point: float = _latent(1.0, 0.22)
    jaw_width: float = _latent(0.0, 2.2)
    jaw_rise: float = _latent(25.0, 4.0)
    cheekbone: float = _latent(2.6, 1.5)
    cheek_fat: float = _latent(0.0, 1.8)
    forehead: float = _latent(0.0, 1.6)
    brow_ridge: float = _latent(1.8, 1.1)
    socket: float = _latent(4.2, 1.0)
    nose_y: float = _latent(6.0, 1.9)
    nose_tip: float = _latent(9.5, 2.2)
    nose_tip_width: float = _latent(4.6, 0.8)
    nose_upturn: float = _latent(0.0, 1.2)
    bridge: float = _latent(6.0, 1.9)
    bridge_width: float = _latent(4.0, 0.8)
    bridge_hump: float = _latent(0.0, 1.0)
    wings: float = _latent(7.0, 1.2)
    wing_height: float = _latent(4.0, 0.8)
    mouth_y: float = _latent(26.0, 1.4)
    mouth_width: float = _latent(15.0, 1.7)
    mouth_forward: float = _latent(2.6, 1.2)
    upper_lip: float = _latent(3.2, 1.0)
    lower_lip: float = _latent(4.3, 1.1)
    cupid_bow: float = _latent(0.32, 0.16)
    mouth_corner: float = _latent(0.0, 0.9)
    lip_darkness: float = _latent(0.30, 0.13)
    eye_x: float = _latent(18.0, 1.0)
    eye_y: float = _latent(-14.0, 0.9)
    eye_width: float = _latent(8.3, 0.75)
    eye_open: float = _latent(4.2, 0.75)
    eye_tilt: float = _latent(0.5, 0.9)
    eye_skew: float = _latent(0.0, 0.22)
    lid_crease: float = _latent(0.45, 0.28)
    lid_fold: float = _latent(2.4, 0.6)
    iris_radius: float = _latent(3.9, 0.25)
    brow_y: float = _latent(-25.0, 1.5)
    brow_thickness: float = _latent(2.0, 0.6)
    brow_arch: float = _latent(2.0, 1.2)
    brow_tilt: float = _latent(0.0, 1.2)
    brow_length: float = _latent(11.5, 1.1)
    brow_density: float = _latent(0.75, 0.16)
    brow_inner: float = _latent(0.0, 1.3)
    ear_size: float = _latent(10.0, 1.2)
    ear_out: float = _latent(6.5, 2.2)
    hairline: float = _latent(-42.0, 3.2)
    hair_volume: float = _latent(5.5, 1.8)
    temples: float = _latent(0.0, 3.5)
    undertone: float = _latent(0.0, 1.0)
    redness: float = _latent(0.16, 0.09)
    freckles: float = _latent(-0.25, 0.45)
    age: float = _latent(38.0, 12.0)
    neck: float = _latent(25.0, 2.4)

    # The fields below are drawn by separate rules in `draw_identity`.
    masculine: float = 0.0
    melanin: float = 0.5
    iris: RGB = (0.2, 0.1, 0.05)
    hair: RGB = (0.1, 0.08, 0.06)
    curl: float = 0.0
    styles: tuple[int, int] = (0, 1)
    baldness: float = 0.0
    beard: int = 0
    beard_habit: float = 0.0
    glasses_habit: float = 0.1
    glasses_shape: int = 0
    texture: tuple[int, int] = (0, 0)
    marks: tuple[Mark, ...] = ()


_NORMAL = tuple(field for field in dataclasses.fields(Identity) if field.metadata)

# How latents follow the masculine-feminine axis, in spreads at either end: faces whose traits agree look real.
_MASCULINE = {
    "jaw_width": 0.8, "brow_ridge": 0.9, "brow_thickness": 0.8, "chin_ball": 0.5, "nose_tip": 0.4, "neck": 0.9,
    "upper_lip": -0.6, "lower_lip": -0.5, "eye_open": -0.5, "brow_arch": -0.6, "cheek_fat": -0.3, "chin_point": 0.5,
    "brow_y": 0.5, "chin_y": 0.4,
}  # fmt: skip

IRISES: tuple[RGB, ...] = (
    (0.10, 0.05, 0.03), (0.16, 0.08, 0.04), (0.24, 0.13, 0.06), (0.28, 0.22, 0.10), (0.20, 0.27, 0.17),
    (0.20, 0.32, 0.46), (0.30, 0.38, 0.44),
)  # fmt: skip
HAIRS: tuple[RGB, ...] = (
    (0.07, 0.06, 0.06), (0.11, 0.08, 0.07), (0.19, 0.13, 0.09), (0.31, 0.20, 0.13), (0.42, 0.29, 0.17),
    (0.66, 0.50, 0.30), (0.48, 0.22, 0.11),
)  # fmt: skip
BEARDS = ("none", "stubble", "moustache", "goatee", "full")


@lru_cache(maxsize=4096)
def draw_identity(seed: int, number: int) -> Identity:
    """The identity of (seed, number); it is the same on every machine and does not depend on earlier draws."""
    rng = np.random.default_rng((seed, 0, number))
    normal = np.clip(rng.standard_normal(len(_NORMAL)), -2.2, 2.2).tolist()
    uniform = rng.random(24).tolist()
    masculine = 1.0 if uniform[0] < 0.5 else -1.0
    latents = {
        field.name: field.metadata["mean"]
        + field.metadata["spread"] * (draw + masculine * _MASCULINE.get(field.name, 0.0))
        for field, draw in zip(_NORMAL, normal, strict=True)
    }
    melanin = 0.04 + 0.92 * uniform[1] ** 1.25
    pale = melanin < 0.45
    eye = IRISES[int(uniform[2] * (len(IRISES) if pale else 3))]
    hair = HAIRS[int(uniform[3] * (len(HAIRS) if pale else 3))]
    long, short = (0.15, 0.85) if masculine > 0 else (0.75, 0.25)
    styles = tuple(_style(uniform[4 + i], long, short) for i in (0, 1))
    bearded = masculine > 0 and uniform[6] < 0.5
    marks = tuple(
        Mark(x, y, 0.9 + 0.5 * size, 0.9 + 0.5 * size, 0.55 + 0.3 * size)
        for x, y, size in zip(
            rng.uniform(-30, 30, 4).tolist(), rng.uniform(-35, 42, 4).tolist(), rng.random(4).tolist(), strict=True
        )
    )[: int(uniform[7] * 4.6)]
    if uniform[8] < 0.08:
        marks += (Mark(-28 + 56 * uniform[9], -30 + 50 * uniform[10], 0.8, 5.0, -0.35),)
    return Identity(
        **latents,
        masculine=masculine,
        melanin=melanin,
        iris=eye,
        hair=hair,
        curl=max(0.0, uniform[11] * 1.6 - 0.6),
        styles=(styles[0], styles[1]),
        baldness=max(0.0, uniform[12] * 3.2 - 2.2) if masculine > 0 else 0.0,
        beard=1 + int(uniform[13] * 4) if bearded else 0,
        beard_habit=0.5 + 0.45 * uniform[14],
        glasses_habit=0.65 if uniform[15] < 0.22 else 0.06,
        glasses_shape=int(uniform[16] * 3),
        texture=(int(uniform[17] * 120), int(uniform[18] * 100)),
        marks=marks,
    )


def _style(draw: float, long: float, short: float) -> int:
    """A hair style of `hair.STYLES`: the first four are short, the other four long."""
    return int(draw / short * 4) if draw < short else 4 + min(3, int((draw - short) / long * 4))
