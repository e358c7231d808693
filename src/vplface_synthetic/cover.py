"""Cover of the head: skin colour and marks, hair, beards, hats and masks, as maps over (angle, height)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from vplface_synthetic import noise
from vplface_synthetic.conditions import Conditions
from vplface_synthetic.head import (
    BACK,
    COS,
    FACE,
    HEIGHT,
    THETA,
    WIDTH,
    Bump,
    Map,
    Y,
    bumps,
    ellipse,
    jaw_line,
    lowered,
    step,
)
from vplface_synthetic.identity import RGB, Identity

# Hairlines: the height of the hair's edge at |θ| of these degrees; 80 means that hair falls to the shoulders.
_ANGLES = np.radians((0.0, 25.0, 45.0, 58.0, 70.0, 82.0, 96.0, 115.0, 135.0))
STYLES: tuple[tuple[float, ...], ...] = (
    (-42, -42, -39, -30, -8, -4, -4, 30, 40),  # short
    (-46, -46, -46, -38, -18, -12, -12, 24, 34),  # cropped
    (-38, -37, -36, -30, -8, -2, 4, 36, 44),  # side parting
    (-45, -44, -38, -27, -4, 0, 6, 38, 50),  # brushed back
    (-43, -41, -34, -12, 50, 80, 80, 80, 80),  # long, middle parting
    (-29, -29, -30, -16, 40, 80, 80, 80, 80),  # long with a fringe
    (-40, -39, -34, -18, 24, 36, 40, 42, 44),  # bob
    (-45, -44, -40, -32, -16, -8, -2, 26, 36),  # tied back
)
_BALD = np.interp(np.abs(THETA), _ANGLES, (-80, -80, -78, -66, -16, -6, -4, 30, 40)).astype(np.float32)
_FALLING = (4, 5, 6)
_VOLUME = (1.0, 0.35, 1.1, 1.2, 1.0, 1.05, 1.25, 0.5)
_BEARD_EDGE = np.interp(np.abs(THETA), np.radians((0, 18, 30, 50, 68, 80, 90)), (15, 16, 24, 19, 0, -14, 80)).astype(
    np.float32
)
_MASK_EDGE = np.interp(np.abs(THETA), np.radians((0, 20, 45, 70, 84)), (-3, 1, 6, 10, 40)).astype(np.float32)
_ABSOLUTE = np.abs(THETA)
_AGED = bumps(
    [Bump(0.20, y, 0.0, 0.8, 0.8, 17.0) for y in (-39.0, -35.0, -31.0)]
    + [Bump(0.12, -7.0, x, 2.6, 3.0, 7.0) for x in (-17.0, 17.0)]
)
_FRECKLED = bumps([Bump(1.0, 3.0, 0.0, 12.0, 10.0, 30.0)])
_ROUGE = bumps([Bump(1.0, 9.0, x, 7.0, 7.0, 9.0) for x in (-23.0, 23.0)])
_BLUSH = _ROUGE + bumps(
    [Bump(0.8, 8.0, 0.0, 5.0, 4.0, 6.0), Bump(0.9, 42.0, 0.0, 5.0, 5.0, 9.0)]
    + [Bump(1.3, -4.0, x, 8.0, 8.0, 4.0) for x in (-63.0, 63.0)]
)
_GLOSS = 0.35 + bumps(
    [Bump(0.9, 6.0, 0.0, 9.0, 4.0, 5.0), Bump(0.6, -34.0, 0.0, 8.0, 8.0, 22.0), Bump(0.4, 42.0, 0.0, 4.0, 4.0, 6.0)]
    + [Bump(0.5, 0.0, x, 6.0, 6.0, 9.0) for x in (-26.0, 26.0)]
)


class Surface(NamedTuple):
    """The head as it is rendered: its radius with its cover, linear colour, gloss and a mask of hidden features."""

    radius: Map
    colour: Float32[np.ndarray, "3 96 112"]
    gloss: Map
    hidden: Map


def linear(colour: RGB) -> RGB:
    """Convert a colour from the picture's scale to the scale on which light is summed (gamma 2)."""
    return (colour[0] ** 2, colour[1] ** 2, colour[2] ** 2)


def skin_colour(identity: Identity, conditions: Conditions) -> RGB:
    """Skin from pale to dark over the melanin scale, in the picture's scale."""
    t = min(max(identity.melanin + conditions.tan, 0.0), 1.0)
    palette = ((0.94, 0.78, 0.70), (0.86, 0.67, 0.55), (0.68, 0.47, 0.35), (0.42, 0.28, 0.21))
    place = t * 3
    low = min(int(place), 2)
    mix = place - low
    warm = 0.012 * identity.undertone
    shift = (warm, 0.0, -2 * warm)
    red, green, blue = (a + mix * (b - a) + s for a, b, s in zip(palette[low], palette[low + 1], shift, strict=True))
    return (red, green, blue)


def dress(identity: Identity, conditions: Conditions, bare: Map, side: Float32[np.ndarray, " 96"]) -> Surface:
    """Add skin, hair, beard, hat and mask to the bare head."""
    colour, gloss = _skin(identity, conditions)
    radius = bare
    hidden = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    if conditions.beard:
        _beard(identity, conditions, colour, gloss)
    if conditions.mask:
        radius = _mask(identity, conditions, radius, colour, gloss, hidden)
    radius = _hair(identity, conditions, radius, side, colour, gloss, hidden)
    if conditions.hat:
        radius = _hat(conditions, radius, colour, gloss, hidden)
    return Surface(radius, colour, gloss, hidden)


def _blend(colour: Float32[np.ndarray, "3 96 112"], mask: Map, paint: RGB, texture: Map | None = None) -> None:
    for plane, level in zip(colour, linear(paint), strict=True):
        target = level if texture is None else texture * level
        plane += mask * (target - plane)


@lru_cache(maxsize=512)
def _complexion(i: Identity) -> Map:
    """Marks, freckles and unevenness of an identity's skin, as darkness; kept like the relief of the face."""
    dark = [Bump(m.darkness, m.y, m.x, m.height, m.height, m.width) for m in i.marks]
    for s in (-1.0, 1.0):
        dark += [
            Bump(0.11, i.eye_y + 7, s * (i.eye_x - 1), 2.6, 3.0, 7.0),
            Bump(0.10, i.eye_y - 4, s * (i.eye_x - 2), 4.0, 4.0, 7.0),
            Bump(0.30, i.eye_y + 9.0, s * 59.0, 4.0, 5.0, 2.0),
        ]
    shade = bumps(dark)
    place = (0.13 + i.texture[0] * 0.0071, 0.37 + i.texture[1] * 0.0083)
    shade += 0.028 * noise.window(noise.SKIN, place[0], HEIGHT, WIDTH)
    shade += 0.03 * noise.window(noise.CLOUDS, place[1], HEIGHT, WIDTH)
    if i.freckles > 0:
        spots = step(noise.window(noise.SKIN, place[1], HEIGHT, WIDTH) - 1.15, 0.8)
        shade += (0.5 * min(i.freckles, 0.8)) * spots * _FRECKLED
    shade.flags.writeable = False
    return shade


def _skin(i: Identity, c: Conditions) -> tuple[Float32[np.ndarray, "3 96 112"], Map]:
    shade = lowered(_complexion(i), i.mouth_y, 4.0 * c.open)
    if c.age > 40.0:
        shade = shade + (c.age - 38.0) / 30.0 * _AGED
    blush = (_BLUSH + (2.0 * c.make_up) * _ROUGE) * i.redness if c.make_up > 0 else _BLUSH * i.redness
    base = linear(skin_colour(i, c))
    colour = np.empty((3, HEIGHT, WIDTH), dtype=np.float32)
    for plane, level, by_shade, by_blush in zip(colour, base, (0.8, 1.0, 1.1), (0.12, 0.85, 0.7), strict=True):
        np.multiply(shade, -by_shade * level, out=plane)
        plane -= (by_blush * level) * blush
        plane += level
    return colour, _GLOSS.copy()


def _hair(
    i: Identity, c: Conditions, radius: Map, side: Float32[np.ndarray, " 96"],
    colour: Float32[np.ndarray, "3 96 112"], gloss: Map, hidden: Map,
) -> Map:  # fmt: skip
    edge = np.interp(_ABSOLUTE, _ANGLES, STYLES[c.style]).astype(np.float32)
    front = np.maximum(COS, 0.0)
    edge += (i.hairline + 42.0) * front
    edge -= i.temples * bumps_1d(40.0, 14.0)
    edge += (3.5 * c.parting) * np.sin(2.0 * THETA) * front
    bald = i.baldness
    if bald > 0 and c.style < 4:
        edge += bald * np.minimum(_BALD - edge, 0.0)
    fringe = noise.window(noise.STRANDS, c.seeds[0], HEIGHT, WIDTH)
    curls = noise.window(noise.CURLS, c.seeds[1], HEIGHT, WIDTH)
    ragged = (1.6 + 2.0 * i.curl) * (0.35 + 0.65 * front)
    offset = edge[None, :] - Y[:, None]
    offset += ragged * (fringe + i.curl * curls)
    mask = step(offset, 3.0)
    volume = i.hair_volume * _VOLUME[c.style] * c.volume * (1.0 + 0.9 * i.curl)
    raised = np.interp(Y + np.where(Y < -20, volume, 0.0), Y, side)
    depth = np.interp(Y + volume, Y, FACE)
    if c.style in _FALLING:
        wide = np.where(Y < 4, raised, side.max()) + volume
        deep = np.where(Y < 4, depth, 41.0) + 0.6 * volume
    else:
        wide = raised + volume * np.clip((14.0 - Y) / 30.0, 0.15, 1.0)
        deep = depth + 0.6 * volume
    shell = ellipse(wide.astype(np.float32), deep.astype(np.float32), BACK + volume)
    shell += (0.45 + 1.1 * i.curl) * curls + 0.35 * fringe
    thick = np.maximum(shell - radius, 0.4)
    soft = np.minimum(1.0, step(offset - 4.0, 12.0) + 0.22)
    radius = radius + mask * soft * thick
    texture = 0.95 + 0.26 * (1.0 - 0.6 * min(i.curl, 1.0)) * fringe + 0.2 * i.curl * curls
    texture *= 0.72 + 0.28 * soft
    np.maximum(texture, 0.25, out=texture)
    _blend(colour, mask, c.hair, texture)
    gloss += mask * (1.1 - 0.6 * min(i.curl, 1.0) - gloss)
    np.maximum(hidden, mask, out=hidden)
    return radius


def bumps_1d(degrees: float, extent: float) -> Float32[np.ndarray, " 112"]:
    """A pair of soft bumps along θ, at ± the given angle."""
    pair: Float32[np.ndarray, " 112"] = np.exp(
        -0.5 * np.square((_ABSOLUTE - math.radians(degrees)) / math.radians(extent))
    )
    return pair


def _beard(i: Identity, c: Conditions, colour: Float32[np.ndarray, "3 96 112"], gloss: Map) -> None:
    strands = noise.window(noise.HAIRS, 0.2 + i.texture[0] * 0.005, HEIGHT, WIDTH)
    below = Y[:, None] - _BEARD_EDGE[None, :] + 1.5 * strands
    above = jaw_line(i, 4.0 * c.open)[None, :] + 7.0 - Y[:, None]
    kind = c.beard
    if kind == 2:
        above = i.mouth_y - 1.0 + 26.0 * _ABSOLUTE[None, :] - Y[:, None]
    mask = step(below, 5.0) * step(above, 5.0)
    if kind == 2:
        mask *= step(0.42 - _ABSOLUTE, 0.12)
    if kind == 3:
        mask *= step(0.40 - _ABSOLUTE, 0.16)
    mask *= np.clip((0.34 if kind == 1 else 0.8) + 0.16 * strands, 0.0, 0.95)
    _blend(colour, mask, (c.hair[0] * 0.9 + 0.01, c.hair[1] * 0.88, c.hair[2] * 0.88))
    gloss *= 1.0 - 0.6 * mask


def _mask(
    i: Identity, c: Conditions, radius: Map, colour: Float32[np.ndarray, "3 96 112"], gloss: Map, hidden: Map
) -> Map:
    inside = Y[:, None] - _MASK_EDGE[None, :]
    mask = step(inside, 1.8) * step(jaw_line(i, 4.0 * c.open)[None, :] + 5.0 - Y[:, None], 1.8)
    smooth = np.maximum(cv2.blur(radius, (13, 13)), radius) + 1.2
    folds = 1.0 - 0.10 * np.cos(Y * 0.75)[:, None] + np.zeros_like(radius)
    _blend(colour, mask, c.mask_colour, folds.astype(np.float32))
    gloss *= 1.0 - 0.8 * mask
    np.maximum(hidden, mask, out=hidden)
    covered: Map = radius + mask * (smooth - radius)
    return covered


def _hat(c: Conditions, radius: Map, colour: Float32[np.ndarray, "3 96 112"], gloss: Map, hidden: Map) -> Map:
    edge = -36.0 + 16.0 * (1.0 - COS) * (0.5 if c.hat == 1 else 0.2) + 5.0 * (c.seeds[2] - 0.5)
    inside = np.minimum(edge, 4.0)[None, :] - Y[:, None]
    mask = step(inside, 2.0)
    if c.hat == 1:  # knitted
        texture = (1.0 + 0.16 * np.cos(THETA * 46.0)[None, :] - 0.2 * step(6.0 - inside, 2.0)).astype(np.float32)
        grown = radius + mask * np.maximum(4.0, 46.0 + 0 * radius - radius) * step(inside, 3.0)
    else:  # a cap, or a hat with a brim all round
        texture = (0.92 + 0.10 * np.cos(THETA * 6.0)[None, :] - 0.35 * step(3.0 - inside, 2.0)).astype(np.float32)
        grown = radius + 2.5 * mask
        reach = 19.0 * np.maximum(COS - 0.25, 0.0) if c.hat == 2 else 11.0 + 2.0 * COS
        brim = np.exp(-0.5 * np.square((inside - 1.5) / 1.7))
        grown += brim * reach[None, :].astype(np.float32)
    _blend(colour, mask, c.hat_colour, texture)
    gloss *= 1.0 - 0.75 * mask
    np.maximum(hidden, mask, out=hidden)
    worn: Map = grown.astype(np.float32)
    return worn
