"""Properties of encoded picture files, read without decoding: type, size, orientation, completeness.

They are checked before decoding, because OpenCV silently fills the missing part of a truncated JPEG with grey, and
allocates memory for as many pixels as a header claims.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

_HEIGHT_WIDTH = struct.Struct(">HH")

Type: TypeAlias = Literal["jpg", "png", "webp", "bmp"]

MAX_PIXELS = 2**27
"""Largest number of pixels that are decoded, 134 million."""

MAX_MEMORY = 2**30
"""Largest memory that decoding may take, in bytes."""

MAX_BYTES_PER_PIXEL = 32

_OTHER_TYPES = (
    (re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"....ftypcrx ", re.DOTALL), "CR3"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF or raw"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
)

_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's start-of-frame markers; the others in that row define tables."""


def type_of(data: bytes) -> Type | None:
    """Type of a picture file by its first bytes; None if it is not supported."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "bmp" if data.startswith(b"BM") else None


def other_type_of(data: bytes) -> str | None:
    """Type of a picture file that is not supported; None if unknown."""
    return next((name for begins, name in _OTHER_TYPES if begins.match(data)), None)


def suffix_of(data: bytes) -> str:
    """File name suffix of a picture; ".jpg" for other bytes, so that reading them reports the error."""
    return f".{type_of(data) or 'jpg'}"


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height in a picture's header; None if the header is incomplete."""
    try:
        match type_of(data):
            case "jpg":
                return _jpeg_size(data)
            case "png":
                return struct.unpack_from(">II", data, 16)
            case "webp":
                return _webp_size(data)
            case "bmp":
                if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2's short header
                    return struct.unpack_from("<HH", data, 18)
                width, height = struct.unpack_from("<ii", data, 18)
                return abs(width), abs(height)  # rows from the top down are written as a negative height
            case None:
                return None
    except (struct.error, IndexError):
        return None


def is_whole(data: bytes) -> bool:
    """Whether a picture file is complete, as far as can be known without decoding it."""
    match type_of(data):
        case "jpg":
            return _jpeg_is_whole(data)
        case "png":
            return b"IEND" in _png_chunks(data)
        case "webp":
            return len(data) >= int(struct.unpack_from("<I", data, 4)[0]) + 8
        case "bmp":
            return len(data) >= 26 and len(data) >= int(struct.unpack_from("<I", data, 2)[0])
        case None:
            return False


def memory_of(data: bytes) -> int:
    """Approximate memory in bytes for decoding a picture, from measurements; 0 if its size is unknown.

    At most :data:`MAX_BYTES_PER_PIXEL` per pixel.
    """
    width, height = size_of(data) or (0, 0)
    return width * height * _bytes_per_pixel(data)


def orientation_of(data: bytes) -> int:
    """EXIF orientation of a PNG or WebP file, 1 to 8; 1 by default."""
    match type_of(data):
        case "png":
            chunks = ((kind, body) for kind, body in _png_bodies(data) if kind == b"eXIf")
        case "webp":
            chunks = ((kind, body) for kind, body in _webp_chunks(data) if kind == b"EXIF")
        case _:
            return 1
    return next((_exif_orientation(body.removeprefix(b"Exif\0\0")) for _, body in chunks), 1)


def may_be_transparent(data: bytes) -> bool:
    """Whether a whole picture file has, or may have, an alpha channel or a transparent colour."""
    match type_of(data):
        case "png":
            return data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data[: data.find(b"IDAT")]
        case "webp":
            return data[12:16] == b"VP8L" or (data[12:16] == b"VP8X" and bool(int.from_bytes(data[20:21]) & 0x10))
        case _:
            return False


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _SIZE_MARKERS:
            height, width = _HEIGHT_WIDTH.unpack_from(data, position + 5)
            return width, height
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            position += 2
        else:
            position += 2 + max(2, data[position + 2] << 8 | data[position + 3])
    return None


def _jpeg_buffered_components(data: bytes) -> int:
    """Number of JPEG components buffered as a whole during decoding; 0 if a single scan holds them all."""
    position, components, progressive = 2, 0, False
    try:
        while data[position] == 0xFF:
            marker = data[position + 1]
            if marker in _SIZE_MARKERS:
                components, progressive = data[position + 9], marker & 3 == 2
            elif marker == 0xDA:  # a scan
                return components if progressive or data[position + 4] < components else 0
            if marker == 0xFF:
                position += 1
            elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:
                position += 2
            else:
                position += 2 + max(2, data[position + 2] << 8 | data[position + 3])
    except IndexError:
        pass
    return components


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end-of-image marker exists: at the end, or found by parsing the segments."""
    if data.endswith(b"\xff\xd9"):
        return True
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return False
        marker = data[position + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body, and bytes inside the scan
            position += 2
        elif position + 4 > len(data):
            return False
        else:
            position += 2 + max(2, int(struct.unpack_from(">H", data, position + 2)[0]))


def _png_chunks(data: bytes) -> set[bytes]:
    """Types of the leading chunks that are complete and whose checksum is right."""
    return {kind for kind, _ in _png_bodies(data)}


def _png_bodies(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and contents of the leading chunks that are complete and whose checksum is right."""
    position, kind = 8, b""
    while position + 12 <= len(data) and kind != b"IEND":
        length = int(struct.unpack_from(">I", data, position)[0])
        end = position + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            break
        kind = data[position + 4 : position + 8]
        yield kind, data[position + 8 : end]
        position = end + 4


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= len(data):
        length = int(struct.unpack_from("<I", data, position + 4)[0])
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _exif_orientation(exif: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        start = int(struct.unpack_from(f"{order}I", exif, 4)[0])
        for number in range(struct.unpack_from(f"{order}H", exif, start)[0]):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * number)
            if (tag, kind, count) == (0x0112, 3, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _bytes_per_pixel(data: bytes) -> int:
    match type_of(data):
        case "jpg":
            return max(6, 3 + 2 * _jpeg_buffered_components(data))
        case "png":
            animated, transparent = b"acTL" in data[: data.find(b"IDAT")], may_be_transparent(data)
            deep = transparent and data[24] == 16
            return (12 if animated else 6) if not transparent else (8 + 8 * animated) * (1 + deep)
        case "webp" if data[12:16] == b"VP8X" and data[20] & 0x02:  # animated
            return 14
        case "webp":
            return 6 if data[12:16] == b"VP8 " else 10
        case _:
            return 6
