"""One picture of one identity under given conditions: geometry, light, background, camera."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vplface_synthetic import noise, scene
from vplface_synthetic.conditions import Conditions
from vplface_synthetic.cover import Surface, dress
from vplface_synthetic.features import paint_features
from vplface_synthetic.head import (
    BOTTOM,
    EDGE,
    HEIGHT,
    TOP,
    WIDTH,
    Camera,
    Hits,
    camera,
    cast_rays,
    head_radius,
)
from vplface_synthetic.identity import Identity

Image: TypeAlias = UInt8[np.ndarray, "112 112 3"]
_PER_Y = (HEIGHT - 1) / ((BOTTOM - TOP) * 8.0)
_PER_THETA = (WIDTH - 1) / (2 * EDGE * 8.0)


def render(identity: Identity, conditions: Conditions) -> Image:
    """Render a picture, RGB; a pure function of its arguments."""
    bare, side = head_radius(identity, conditions)
    view = camera(identity, conditions, bare)
    surface = dress(identity, conditions, bare, side)
    hits = cast_rays(view, surface.radius)
    head = _shade(surface, hits, view, identity, conditions)
    behind = scene.background(view, conditions)
    picture = cv2.blendLinear(cv2.convertScaleAbs(cv2.merge(tuple(head))), behind, hits.cover, 1.0 - hits.cover)
    if conditions.glasses:
        scene.glasses(picture, view, bare, identity, conditions)
    scene.in_the_way(picture, conditions)
    return _photograph(picture, conditions)


def _shade(
    surface: Surface, hits: Hits, view: Camera, identity: Identity, conditions: Conditions
) -> Float32[np.ndarray, "3 112 112"]:
    """Albedo times light, plus gloss; on the picture's scale, 0..255."""
    c = conditions
    albedo = cv2.remap(
        cv2.merge((*surface.colour, surface.hidden)), hits.column, hits.row, cv2.INTER_LINEAR,
    )  # fmt: skip
    red, green, blue, hidden = cv2.split(albedo)
    colour = np.stack((red, green, blue))
    paint_features(colour, 1.0 - hidden, hits, view, identity, conditions)
    key, sky, shine = cv2.split(cv2.resize(_light(surface, hits, view, c), (112, 112), interpolation=cv2.INTER_LINEAR))
    for plane, by_key, by_sky in zip(colour, c.key_colour, c.ambient_colour, strict=True):
        plane *= key * (1.45 * c.key * c.exposure * by_key) + sky * (1.3 * c.ambient * c.exposure * by_sky)
        plane += shine
    flat = _positive(colour.reshape(3 * 112, 112))
    flat /= 1.0 + 0.16 * flat
    lit: Float32[np.ndarray, "3 112 112"] = (262.0 * cv2.sqrt(flat)).reshape(3, 112, 112)
    return lit


def _light(surface: Surface, hits: Hits, view: Camera, c: Conditions) -> Float32[np.ndarray, "56 56 3"]:
    """The share of the key light, of the sky, and the gloss that reach the camera, at half resolution.

    With r(θ, y) the normal is e_r − (∂r/∂θ / r)·e_θ − (∂r/∂y)·e_y, normalised. Hollows get less light.
    """
    radius = surface.radius
    along = cv2.Sobel(radius, cv2.CV_32F, 1, 0, ksize=3, scale=_PER_THETA)
    along /= cv2.max(radius, 8.0)
    down = cv2.Sobel(radius, cv2.CV_32F, 0, 1, ksize=3, scale=_PER_Y)
    hollow = radius - cv2.blur(radius, (13, 15))
    half = (slice(None, None, 2), slice(None, None, 2))
    relief = cv2.remap(
        cv2.merge((along, down, surface.gloss, hollow)), hits.column[half], hits.row[half],
        cv2.INTER_LINEAR,
    )  # fmt: skip
    along, down, gloss, hollow = cv2.split(relief)
    hollow = np.minimum(np.maximum(1.0 + 0.075 * hollow, 0.35), 1.12)
    inverse = 1.0 / (hits.radius[half] + 0.01)
    sine, cosine = hits.x[half] * inverse, hits.z[half] * inverse
    nx, nz = sine - along * cosine, cosine + along * sine
    length = 1.0 / cv2.sqrt(np.square(nx) + np.square(down) + np.square(nz))
    columns = view.rotation.T.tolist()

    def facing(direction: tuple[float, float, float]) -> Float32[np.ndarray, "56 56"]:
        x, y, z = (sum(a * b for a, b in zip(direction, column, strict=True)) for column in columns)
        cosine: Float32[np.ndarray, "56 56"] = (x * nx - y * down + z * nz) * length
        return cosine

    sun = (math.sin(c.light_x) * math.cos(c.light_y), math.sin(c.light_y), math.cos(c.light_x) * math.cos(c.light_y))
    key = _positive(0.14 + 0.86 * facing(sun)) * hollow
    sky = (0.75 + 0.3 * facing((0.0, -1.0, 0.25))) * hollow
    norm = math.sqrt(2.0 + 2.0 * sun[2])  # of the sum of the directions to the light and to the camera
    shine = _positive(facing((sun[0] / norm, sun[1] / norm, (sun[2] + 1.0) / norm)))
    for _ in range(4):
        np.square(shine, out=shine)
    shine *= gloss * (c.shine * c.key * 0.5)
    light: Float32[np.ndarray, "56 56 3"] = cv2.merge((key, sky, shine))
    return light


def _positive(values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """max(values, 0), quicker than numpy's."""
    kept: Float32[np.ndarray, "h w"] = cv2.threshold(values, 0.0, 0.0, cv2.THRESH_TOZERO)[1]
    return kept


def _photograph(picture: Image, c: Conditions) -> Image:
    """Saturation, contrast, low resolution, blur, grain and compression."""
    if c.saturation < 0.95:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        picture = cv2.addWeighted(picture, c.saturation, grey, 1.0 - c.saturation, 0.0)
    if c.contrast != 1.0:
        picture = cv2.convertScaleAbs(picture, alpha=c.contrast, beta=118.0 * (1.0 - c.contrast) + 8.0)
    if c.shrink > 1.05:
        small = max(int(112 / c.shrink), 24)
        picture = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (112, 112), interpolation=cv2.INTER_LINEAR)
    if c.blur > 0.2:
        picture = cv2.GaussianBlur(picture, (5, 5), c.blur)
    if c.grain > 0.4:
        grain = noise.window(noise.GRAIN, c.seeds[6], 112, 112)
        picture = np.clip(picture + c.grain * grain, 0.0, 255.0).astype(np.uint8)
    if c.jpeg:
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, c.jpeg])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return picture
