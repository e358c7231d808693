"""Kinds of degradation of a picture, each with the range that its strength is drawn from."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from jaxtyping import UInt8

from vplface.data.augment import Image, enlarge, rectangle, shrink
from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")

Range: TypeAlias = tuple[float, float]
"""The ends of a range, the lower one first; a value is drawn uniformly."""

WholeRange: TypeAlias = tuple[int, int]
"""The ends of a range of whole numbers, both included."""

_SIDE = 112
_LARGEST_SIGMA = 255.0


@dataclass(frozen=True)
class Kind(abc.ABC):
    """A degradation of one picture; the fields are the ranges of its strength, and ``name`` is that of recipes."""

    name: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """A degraded copy of the same size; the same state of the generator gives the same."""


@dataclass(frozen=True)
class LowResolution(Kind):
    """A low resolution: the picture is reduced by area and enlarged again.

    Attributes:
        pixels: length of the shorter side in between. A picture that is no larger stays as it is.

    Raises:
        ValueError: an end is not within 1..112.
    """

    name: ClassVar[str] = "low_resolution"
    pixels: WholeRange = (7, 11)

    def __post_init__(self) -> None:
        _require_range("pixels", self.pixels, 1, _SIDE)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """The picture at a low resolution."""
        return enlarge(shrink(picture, _factor(picture, _whole(self.pixels, rng))), picture)


@dataclass(frozen=True)
class Blur(Kind):
    """A Gaussian blur.

    Attributes:
        sigma: standard deviation in pixels.

    Raises:
        ValueError: an end is not within 0.1..112.
    """

    name: ClassVar[str] = "blur"
    sigma: Range = (3.0, 6.0)

    def __post_init__(self) -> None:
        _require_range("sigma", self.sigma, 0.1, _SIDE)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """A blurred copy of the picture."""
        return _blurred(picture, _value(self.sigma, rng))


@dataclass(frozen=True)
class Noise(Kind):
    """Gaussian noise, independent in each pixel and colour.

    Attributes:
        sigma: standard deviation, of pixels in 0..255.

    Raises:
        ValueError: an end is not within 0..255.
    """

    name: ClassVar[str] = "noise"
    sigma: Range = (30.0, 60.0)

    def __post_init__(self) -> None:
        _require_range("sigma", self.sigma, 0.0, _LARGEST_SIGMA)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """A copy of the picture with noise."""
        return _exposed(picture, 1.0, _value(self.sigma, rng), rng)


@dataclass(frozen=True)
class Compression(Kind):
    """Compression to a JPEG file.

    Attributes:
        quality: of the file, as libjpeg counts it.

    Raises:
        ValueError: an end is not within 1..100.
    """

    name: ClassVar[str] = "compression"
    quality: WholeRange = (3, 8)

    def __post_init__(self) -> None:
        _require_range("quality", self.quality, 1, 100)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """The picture as the file holds it."""
        return _compressed(picture, _whole(self.quality, rng))


@dataclass(frozen=True)
class Darkness(Kind):
    """Underexposure, with the noise of a camera.

    Attributes:
        light: the factor of the brightness.
        noise: standard deviation of the noise that is added afterwards, of pixels in 0..255.

    Raises:
        ValueError: an end is not within 0..1 or 0..255.
    """

    name: ClassVar[str] = "darkness"
    light: Range = (0.08, 0.25)
    noise: Range = (2.0, 6.0)

    def __post_init__(self) -> None:
        _require_range("light", self.light, 0.0, 1.0)
        _require_range("noise", self.noise, 0.0, _LARGEST_SIGMA)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """An underexposed copy of the picture."""
        return _exposed(picture, _value(self.light, rng), _value(self.noise, rng), rng)


@dataclass(frozen=True)
class Occlusion(Kind):
    """A rectangle in the colour of one of the picture's pixels, anywhere in the picture.

    Attributes:
        area: share of the picture that is hidden.

    Raises:
        ValueError: an end is not within 0.01..1.
    """

    name: ClassVar[str] = "occlusion"
    area: Range = (0.2, 0.45)

    def __post_init__(self) -> None:
        _require_range("area", self.area, 0.01, 1.0)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """The picture with the rectangle."""
        rows, columns = rectangle(picture, _value(self.area, rng), rng.random(3))
        height, width = picture.shape[:2]
        hidden = picture.copy()
        hidden[rows, columns] = picture[int(height * rng.random()), int(width * rng.random())]
        return hidden


@dataclass(frozen=True)
class Surveillance(Kind):
    """A face far from a surveillance camera: few pixels, blurred, dark, noisy and compressed, and enlarged afterwards.

    Attributes:
        pixels: length of the shorter side of the picture that the camera takes. A smaller picture keeps its size.
        blur: standard deviation of the blur in pixels of that picture.
        light: the factor of the brightness.
        noise: standard deviation of the noise, of pixels in 0..255.
        quality: of the JPEG file.

    Raises:
        ValueError: an end is out of the range that the other kinds have for it.
    """

    name: ClassVar[str] = "surveillance"
    pixels: WholeRange = (14, 24)
    blur: Range = (0.4, 0.8)
    light: Range = (0.4, 0.8)
    noise: Range = (3.0, 8.0)
    quality: WholeRange = (30, 60)

    def __post_init__(self) -> None:
        _require_range("pixels", self.pixels, 1, _SIDE)
        _require_range("blur", self.blur, 0.1, _SIDE)
        _require_range("light", self.light, 0.0, 1.0)
        _require_range("noise", self.noise, 0.0, _LARGEST_SIGMA)
        _require_range("quality", self.quality, 1, 100)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """The picture as the camera gives it."""
        taken = shrink(picture, _factor(picture, _whole(self.pixels, rng)))
        taken = _blurred(taken, _value(self.blur, rng))
        taken = _exposed(taken, _value(self.light, rng), _value(self.noise, rng), rng)
        return enlarge(_compressed(taken, _whole(self.quality, rng)), picture)


@dataclass(frozen=True)
class Strokes(Kind):
    """Worn strokes of a drawing, dark on light or light on dark: thinned, broken by gaps, and blurred.

    The ground is the side of mid-grey on which the median of the picture lies.

    Attributes:
        thinning: diameter of the disc with which the ground grows into the strokes, in pixels; 1 leaves them.
        gaps: number of gaps, discs of ground whose centres are drawn among the pixels of the strokes.
        gap: diameter of a gap in pixels.
        blur: standard deviation of the Gaussian blur in pixels.

    Raises:
        ValueError: an end is not within 1..112, 0..112, 1..112 or 0.1..112.
    """

    name: ClassVar[str] = "strokes"
    thinning: WholeRange = (2, 3)
    gaps: WholeRange = (3, 8)
    gap: WholeRange = (5, 11)
    blur: Range = (0.8, 1.6)

    def __post_init__(self) -> None:
        _require_range("thinning", self.thinning, 1, _SIDE)
        _require_range("gaps", self.gaps, 0, _SIDE)
        _require_range("gap", self.gap, 1, _SIDE)
        _require_range("blur", self.blur, 0.1, _SIDE)

    def __call__(self, picture: Image, rng: np.random.Generator) -> Image:
        """The drawing with worn strokes."""
        light_ground = bool(np.median(picture) >= 128)
        ink = 255 - picture if light_ground else picture.copy()
        drawn = np.argwhere(ink.max(2) >= 128)
        ink = cv2.erode(ink, _disc(_whole(self.thinning, rng)))
        for _ in range(_whole(self.gaps, rng) if len(drawn) else 0):
            row, column = drawn[int(len(drawn) * rng.random())]
            hole = _disc(_whole(self.gap, rng))
            _erase(ink, row - len(hole) // 2, column - len(hole) // 2, hole)
        ink = _blurred(ink, _value(self.blur, rng))
        return 255 - ink if light_ground else ink


KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (LowResolution, Blur, Noise, Compression, Darkness, Occlusion, Surveillance, Strokes)
}
"""The kinds by their names in recipes."""


def _require_range(key: str, ends: Range, lowest: float, highest: float) -> None:
    if len(ends) != 2 or not lowest <= ends[0] <= ends[1] <= highest:
        raise ValueError(f"{key} must be two numbers within {lowest:g}..{highest:g}, the lower one first, got {ends}")


def _value(ends: Range, rng: np.random.Generator) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(rng.random())


def _whole(ends: WholeRange, rng: np.random.Generator) -> int:
    return ends[0] + math.floor((ends[1] - ends[0] + 1) * float(rng.random()))


def _factor(picture: Image, pixels: int) -> float:
    """The factor that reduces the shorter side to a number of pixels; 1 if it is no longer than that."""
    return max(1.0, float(min(picture.shape[:2])) / pixels)


def _blurred(picture: Image, sigma: float) -> Image:
    blurred: Image = cv2.GaussianBlur(picture, (0, 0), sigma)
    return blurred


def _exposed(picture: Image, light: float, sigma: float, rng: np.random.Generator) -> Image:
    """The picture times a factor, plus Gaussian noise, rounded and cut to 0..255."""
    noise = rng.standard_normal(picture.shape, np.float32)
    exposed: Image = np.clip(np.rint(np.float32(light) * picture + np.float32(sigma) * noise), 0, 255).astype(np.uint8)
    return exposed


def _compressed(picture: Image, quality: int) -> Image:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return decoded


def _disc(diameter: int) -> UInt8[np.ndarray, "diameter diameter"]:
    """A square of zeros and ones, the ones no farther from its centre than half the diameter."""
    offset = np.arange(diameter) - (diameter - 1) / 2
    return np.asarray(np.hypot(offset[:, None], offset) <= diameter / 2, np.uint8)


def _erase(ink: Image, top: int, left: int, hole: UInt8[np.ndarray, "diameter diameter"]) -> None:
    """Set the ink to 0 where the hole is 1, in place; what lies outside the picture is ignored."""
    first_row, first_column = max(top, 0), max(left, 0)
    part = ink[first_row : top + len(hole), first_column : left + len(hole)]
    part[hole[first_row - top :, first_column - left :][: part.shape[0], : part.shape[1]] > 0] = 0
