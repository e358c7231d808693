"""Pictures and sets of pictures: protocol, decoding, and preprocessing for a network.

A picture is uint8 RGB, 112 x 112, as returned by :func:`decode`. Only :class:`Preprocessing`, which is stored with a
model, deals with other colour orders.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vplface.data.encoded import (
    MAX_BYTES_PER_PIXEL,
    MAX_MEMORY,
    MAX_PIXELS,
    is_whole,
    may_be_transparent,
    memory_of,
    orientation_of,
    other_type_of,
    size_of,
    type_of,
)
from vplface.data.folder_scan import LeftOut
from vplface.errors import DataError, import_extra
from vplface.reading import UnreadableFileError, read_bytes

cv2 = import_extra("cv2", "train")

SIZE = 112
"""Side of a picture, in pixels."""

MIN_SIDE = 16
"""Shortest side of a usable picture file, in pixels."""

_BAND_PIXELS = 2**18
"""Number of pixels composited at a time."""

_FLIPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Steps along rows and columns that bring each EXIF orientation upright; from 5 on, after the axes are exchanged."""

Picture: TypeAlias = UInt8[np.ndarray, "112 112 3"]
"""One aligned face: RGB."""


class UnreadablePictureError(DataError):
    """Raised for an unusable picture; ``where`` is its path, ``reason`` the explanation."""

    def __init__(self, where: str, reason: str) -> None:
        # Both arguments go to the base class, so that the error survives pickling in a worker process.
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class PictureSet(Protocol):
    """Protocol of labelled pictures, the only interface of training and evaluation to stored data."""

    @property
    def identities(self) -> Sequence[str]:
        """Name of each identity; a label is a position in this list."""

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Picture:
        """The picture itself; raises UnreadablePictureError with its path and the reason."""

    def name(self, index: int) -> str:
        """The picture's name: its path below the set's root, with forward slashes."""


class StoredPictures(abc.ABC):
    """Base of labelled pictures on disk, a :class:`PictureSet` with access to the encoded files.

    A format sets ``_identities`` and ``_labels`` and implements the name, location and bytes of a picture.
    """

    _identities: Sequence[str]
    _labels: Int64[np.ndarray, " n"]
    _left_out: LeftOut = LeftOut()

    @property
    def left_out(self) -> LeftOut:
        """Possible pictures in the set that were not read."""
        return self._left_out

    @property
    def identities(self) -> Sequence[str]:
        """Name of each identity; a label is a position in this list."""
        return self._identities

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """The picture's name: its path below the set's root, with forward slashes."""

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """Location of the picture for messages: its path, or the path and position of its record."""

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """The picture's file: jpg, png, webp or bmp; raises UnreadablePictureError if it cannot be read."""

    def picture(self, index: int) -> Picture:
        """Read and decode one picture; raises UnreadablePictureError with its place and the reason."""
        encoded = self.encoded(index)
        try:
            return decode(encoded, "")
        except UnreadablePictureError as error:
            raise UnreadablePictureError(self.where(index), error.reason) from None

    def _require(self, index: int) -> None:
        """Raise IndexError if the index is out of range."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}, got {index}")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a network's input: (pixel/255 − mean)/std per channel, channels in the order of ``color``.

    ``mean`` and ``std`` are of pixels in 0..1 and in the order of ``color``. The default is (x − 127.5)/127.5
    on RGB, computed exactly so.
    """

    size: int = SIZE
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"color must be 'rgb' or 'bgr', got {self.color!r}")
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size must be a positive number of pixels, got {self.size!r}")
        for key in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, key))
            if len(values) != 3 or not np.isfinite(values).all() or (key == "std" and min(values) <= 0):
                raise ValueError(f"{key} must be three finite {'positive ' * (key == 'std')}numbers, got {values}")
            object.__setattr__(self, key, values)

    def __call__(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """Turn RGB pictures into a network's float32 input, on their device, in channels_last memory format.

        Raises:
            TypeError: if the pictures are not uint8.
            ValueError: if they are not [n, size, size, 3].
        """
        if pictures.dtype != torch.uint8:
            raise TypeError(f"pictures must be uint8, got {pictures.dtype}")
        if pictures.ndim != 4 or pictures.shape[1:] != (self.size, self.size, 3):
            raise ValueError(f"pictures must be [n, {self.size}, {self.size}, 3] RGB, got {list(pictures.shape)}")
        ordered = pictures if self.color == "rgb" else pictures.flip(-1)
        mean, std = (_line(each, self.size, pictures.device) for each in (self.mean, self.std))
        # On a CPU this takes several times as long if the innermost axis has three channels instead of a line of
        # pixels, and somewhat longer if the batch leaves the caches between the steps.
        floats = torch.empty(pictures.shape, dtype=torch.float32, device=pictures.device)
        few = 16 if pictures.device.type == "cpu" else max(1, len(pictures))
        for part, source in zip(torch.split(floats.flatten(2), few), torch.split(ordered.flatten(2), few), strict=True):
            part.copy_(source).sub_(mean).div_(std)
        # Channels stay innermost in memory: moving the axis afterwards is what channels_last means.
        return floats.permute(0, 3, 1, 2)

    @property
    def keeps_uint8(self) -> bool:
        """Whether a network gets the pixels as they are, 0 to 255: mean 0 and std 1/255."""
        return not any(self.mean) and all(abs(std * 255 - 1) < 1e-3 for std in self.std)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-compatible values, the inverse of :meth:`from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read back :meth:`to_dict`.

        Raises:
            DataError: if a key is missing, unknown or has an impossible value.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise DataError(f"preprocessing must have the keys {sorted(known)}, got {sorted(values)}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise DataError(f"preprocessing: {error}") from error


def read_picture_file(path: Path | str) -> bytes:
    """The bytes of a picture's file: a regular file of at most 256 MiB.

    Raises:
        UnreadablePictureError: with the path and the reason, if it cannot be read.
    """
    try:
        return read_bytes(path)
    except UnreadableFileError as error:
        raise UnreadablePictureError(error.where, error.reason) from error


def read_whole(path: Path | str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file, in RGB and of the size that it has; raises UnreadablePictureError."""
    return decode_whole(read_picture_file(path), str(path))


@lru_cache(maxsize=64)
def _line(channels: tuple[float, float, float], size: int, device: torch.device) -> Float[Tensor, " values"]:
    """255 times a value per channel, repeated for each pixel of a line; sent to a device once."""
    return (torch.tensor(channels, dtype=torch.float64, device="cpu") * 255).float().repeat(size).to(device)


def decode(data: bytes, where: str, size: int = SIZE) -> UInt8[np.ndarray, "size size 3"]:
    """Decode a jpg, png, webp or bmp file, as :func:`decode_whole` does, into a square picture.

    A picture of another size is resized to ``size`` x ``size``, stretched if it is not square.

    Raises:
        UnreadablePictureError: as :func:`decode_whole`.
    """
    rgb = decode_whole(data, where)
    try:
        return resized(rgb, size)
    except (MemoryError, cv2.error) as error:
        raise UnreadablePictureError(where, "too large: not enough memory to resize it") from error


def resized(picture: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture with sides of ``size`` pixels, stretched if it is not square."""
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    shrinks = height >= size and width >= size
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def decode_whole(data: bytes, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a jpg, png, webp or bmp file into an RGB picture of the size that it has.

    Grey becomes RGB, 16 bits become 8, transparency is composited on black, an EXIF orientation is applied.

    Args:
        data: the bytes of the file.
        where: path of the file, for the error.

    Raises:
        UnreadablePictureError: if the bytes are of no known format, cut short or damaged, if a side of the picture is
            shorter than 16 pixels, if it claims to have more than 134 million, or takes more than one GiB of memory to
            decode, or more than is available.
    """
    if not data:
        raise UnreadablePictureError(where, "the file is empty")
    if type_of(data) is None:
        other = other_type_of(data)
        hint = "" if other is None else f" but a {other} one; convert it to JPEG"
        raise UnreadablePictureError(where, f"not a jpg, png, webp or bmp file{hint}")
    if not is_whole(data):
        raise UnreadablePictureError(where, "the file is cut short or damaged")
    width, height = size_of(data) or (0, 0)
    if width * height > MAX_PIXELS:
        raise UnreadablePictureError(
            where, f"too large: {width}x{height}, at most {MAX_PIXELS / 1e6:.0f} million pixels are decoded"
        )
    if width * height * MAX_BYTES_PER_PIXEL > MAX_MEMORY and memory_of(data) > MAX_MEMORY:
        raise UnreadablePictureError(
            where,
            f"too large: {width}x{height} of this kind take {memory_of(data) / 2**30:.1f} GiB of memory to decode, the "
            f"limit is {MAX_MEMORY / 2**30:g}",
        )
    try:
        rgb = _decode_pixels(data)
    except MemoryError:
        raise UnreadablePictureError(where, f"too large: not enough memory for {width}x{height} pixels") from None
    except cv2.error as error:
        raise UnreadablePictureError(where, f"cannot be decoded: {error.err}") from None
    if rgb is None:
        raise UnreadablePictureError(where, "cannot be decoded: the contents are damaged")
    height, width = rgb.shape[:2]  # an EXIF orientation may have exchanged them
    if min(height, width) < MIN_SIDE:
        raise UnreadablePictureError(where, f"too small: {width}x{height}, needs {MIN_SIDE} pixels a side")
    return rgb


def _decode_pixels(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """The pixels in RGB; None if they are damaged."""
    stored = np.frombuffer(data, np.uint8)
    if may_be_transparent(data):
        bgra = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)  # which leaves the orientation to us
        if bgra is not None and bgra.ndim == 3 and bgra.shape[2] == 4:
            rgb = _composite_on_black(bgra)
            del bgra
            return _apply_orientation(rgb, orientation_of(data))
        del bgra
    return cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB)  # type: ignore[no-any-return]  # cv2 is not typed


def _composite_on_black(bgra: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    height, width = bgra.shape[:2]
    full = np.iinfo(bgra.dtype).max
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for start in range(0, height, rows):  # the products are four times as large as the picture
        band = bgra[start : start + rows]
        colour, opacity = band[..., 2::-1].astype(np.float32), band[..., 3:].astype(np.float32) / full
        rgb[start : start + rows] = np.rint(colour * opacity * (255 / full))
    return rgb


def _apply_orientation(picture: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture as it is shown, by its EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    rows, columns = _FLIPS[orientation]
    return np.ascontiguousarray(picture[::rows, ::columns])
