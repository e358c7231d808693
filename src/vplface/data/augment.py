"""Random augmentation of pictures that preserves the identity."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")

Image: TypeAlias = UInt8[np.ndarray, "height width 3"]
"""An RGB picture of any size."""

# Upper limits of sensible values; the lower limits are 0.
_LIMITS = {"shift": 0.5, "scale": 0.9, "rotate": 180.0}

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma of R, G, B (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes to an aligned face; each is off at 0.

    Attributes:
        flip: probability of a left-right mirror image.
        shift: largest move along x and along y, as a fraction of the side.
        scale: largest change of size, as a fraction: the size becomes 1 − scale to 1 + scale times itself.
        rotate: largest turn to either side, in degrees.
        light: strength, in 0..1, of changes of brightness, contrast, saturation and of each colour's gain.
        low_resolution: probability of being shrunk 1.5 to 5 times and enlarged again.
        occlusion: probability of a rectangle of 4 to 25 % of the picture hidden behind noise or one colour.
        grey: probability of losing all colour.
        blur: probability of a Gaussian blur, σ of 0.4 to 2.5 pixels.

    Raises:
        ValueError: naming the field that is out of range.
    """

    flip: float = 0.5
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    light: float = 0.0
    low_resolution: float = 0.0
    occlusion: float = 0.0
    grey: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, limit = getattr(self, field.name), _LIMITS.get(field.name, 1.0)
            if not 0.0 <= value <= limit:
                raise ValueError(f"{field.name} must lie in 0..{limit:g}, got {value}")

    def __call__(
        self,
        picture: Image,
        rng: np.random.Generator,
        out: Image | None = None,
    ) -> Image:
        """A changed copy; the given picture is never written to (but it is returned itself if nothing changes).

        The copy may be in ``out``, a picture that may be written to: new memory costs more than a mirror image does.

        The same generator state gives the same result. Each change draws from its own place in one block of random
        numbers, so that switching one change on leaves the others as they were.
        """
        if self._only_flips:
            return cv2.flip(picture, 1, out) if rng.random() < self.flip else picture
        chance = rng.random(5)
        where = rng.random(4) * 2 - 1
        tone = rng.random(6) * 2 - 1
        amount = rng.random(6)
        picture = self._move(picture, chance[0] < self.flip, where)
        if chance[1] < self.low_resolution:
            picture = enlarge(shrink(picture, 1.5 + 3.5 * amount[0]), picture)
        if chance[2] < self.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), 0.4 + 2.1 * amount[1])
        grey = bool(chance[3] < self.grey)
        if self.light > 0 or grey:
            picture = cv2.transform(picture, _tone(self.light, tone, grey))
        if chance[4] < self.occlusion:
            picture = _occlude(picture, amount[2:], rng)
        return picture

    @cached_property
    def _only_flips(self) -> bool:
        return not (
            self.shift or self.scale or self.rotate or self.light
            or self.low_resolution or self.occlusion or self.grey or self.blur
        )  # fmt: skip

    def _move(self, picture: Image, flip: bool, where: np.ndarray) -> Image:
        """Mirror, shift, scale and rotate about the centre, in one interpolation."""
        if not (self.shift or self.scale or self.rotate):
            return cv2.flip(picture, 1) if flip else picture
        height, width = picture.shape[:2]
        size, angle = 1 + self.scale * where[2], math.radians(self.rotate * where[3])
        mirror = -1 if flip else 1
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        matrix = np.array(
            [
                [mirror * cos, sin, x - mirror * cos * x - sin * y + self.shift * width * where[0]],
                [-mirror * sin, cos, y + mirror * sin * x - cos * y + self.shift * height * where[1]],
            ]
        )
        moved: Image = cv2.warpAffine(
            picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return moved


def _tone(strength: float, draw: np.ndarray, grey: bool) -> Float32[np.ndarray, "3 4"]:
    """All changes of colour as one affine map of (R, G, B, 1), each draw in −1..1."""
    contrast = 1 + 0.5 * strength * draw[0]
    brightness = 96 * strength * draw[1]
    saturation = 0.0 if grey else 1 + strength * draw[2]
    gain = np.ones(3) if grey else 1 + 0.3 * strength * draw[3:6]
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    matrix = contrast * gain[:, None] * mix
    # Contrast turns about mid-grey.
    return np.column_stack([matrix, np.full(3, 127.5 * (1 - contrast) + brightness)]).astype(np.float32)


def shrink(picture: Image, factor: float) -> UInt8[np.ndarray, "small_height small_width 3"]:
    """The picture with its sides divided by a factor of 1 or more; a pixel becomes the mean of the area it covers."""
    height, width = picture.shape[:2]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]


def enlarge(picture: UInt8[np.ndarray, "small_height small_width 3"], like: Image) -> Image:
    """The picture in the size of another, interpolated linearly."""
    height, width = like.shape[:2]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def rectangle(picture: Image, area: float, draw: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a rectangle inside a picture.

    Args:
        picture: any.
        area: share of the picture that the rectangle covers.
        draw: three numbers in 0..1, which give its aspect relative to the picture's, 1:2 to 2:1, and its place.
    """
    height, width = picture.shape[:2]
    stretch = min(2.0, 1.0 / area) ** (draw[0] - 0.5)
    tall = round(height * np.sqrt(area) * stretch)
    wide = round(width * np.sqrt(area) / stretch)
    top, left = int(draw[1] * (height - tall + 1)), int(draw[2] * (width - wide + 1))
    return slice(top, top + tall), slice(left, left + wide)


def _occlude(picture: Image, draw: np.ndarray, rng: np.random.Generator) -> Image:
    """Hide a rectangle of 4 to 25 % of the area behind noise or one colour."""
    rows, columns = rectangle(picture, 0.04 + 0.21 * draw[0], draw[1:])
    noise = rng.random() < 0.5
    size = (rows.stop - rows.start, columns.stop - columns.start, 3)
    hidden = picture.copy()
    hidden[rows, columns] = rng.integers(0, 256, size if noise else 3, dtype=np.uint8)
    return hidden
