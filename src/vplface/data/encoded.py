"""What the bytes of a picture file say before they are decoded: its type, its size, whether it is whole.

A decoder is asked only afterwards. OpenCV fills what a cut JPEG lacks with grey and says nothing, and it sets aside
memory for as many pixels as a header claims.
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, TypeAlias

_TWO_SHORTS = struct.Struct(">HH")

Type: TypeAlias = Literal["jpg", "png", "webp", "bmp"]

MOST_PIXELS = 2**27
"""Pictures of more pixels than this, 134 million, are not decoded."""

_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's start-of-frame markers; the others in that row define tables."""


def type_of(data: bytes) -> Type | None:
    """The type of a picture file by its first bytes; None if it is none of these."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "bmp" if data.startswith(b"BM") else None


def suffix_of(data: bytes) -> str:
    """The file name's suffix that belongs to a picture, ".jpg" for what is none: reading it then says so."""
    return f".{type_of(data) or 'jpg'}"


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height that a picture's header claims; None if it does not get that far."""
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
    """Whether a picture file goes on to its end, as far as can be known without decoding it."""
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
            height, width = _TWO_SHORTS.unpack_from(data, position + 5)
            return width, height
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            position += 2
        else:
            position += 2 + max(2, data[position + 2] << 8 | data[position + 3])
    return None


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
    """Whether the end-of-image marker is there: at the end, or reached by walking the segments."""
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
    kinds: set[bytes] = set()
    position = 8
    while position + 12 <= len(data) and b"IEND" not in kinds:
        length = int(struct.unpack_from(">I", data, position)[0])
        end = position + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            break
        kinds.add(data[position + 4 : position + 8])
        position = end + 4
    return kinds
