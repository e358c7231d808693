"""Types and sizes in the headers of picture files, against two decoders."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vplface.data.encoded import MAX_PIXELS, size_of, suffix_of, type_of
from vplface.data.pictures import UnreadablePictureError, decode

FORMS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
]


def file_of(kind: str, width: int, height: int, **options: object) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(written, kind, **options)
    return written.getvalue()


@pytest.mark.parametrize(("kind", "options"), FORMS)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_size_of_and_suffix_of_match_the_written_file(kind: str, options: dict, width: int, height: int) -> None:
    data = file_of(kind, width, height, **options)
    assert size_of(data) == (width, height)
    assert suffix_of(data) == {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}")
    assert size_of(cv2.imencode(suffix_of(data), np.zeros((height, width, 3), np.uint8))[1].tobytes()) == (
        width,
        height,
    )


def test_size_of_reads_webp_with_transparency_and_jpeg_with_metadata() -> None:
    written = io.BytesIO()
    Image.new("RGBA", (33, 77), (1, 2, 3, 4)).save(written, "WEBP")
    assert size_of(written.getvalue()) == (33, 77)
    exif = Image.Exif()
    exif[0x010E] = "x" * 5000
    written = io.BytesIO()
    Image.new("RGB", (33, 77)).save(written, "JPEG", exif=exif)
    assert size_of(written.getvalue()) == (33, 77)


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"BM", b""]),
    st.binary(max_size=60),
)
def test_size_of_returns_a_size_or_None_for_random_bytes(head: bytes, body: bytes) -> None:
    size = size_of(head + body)
    assert size is None or (len(size) == 2 and min(size) >= 0)
    assert (type_of(head + body) is None) <= (size is None)


def claiming(kind: str, side: int) -> bytes:
    """A small whole file whose header claims to be ``side`` pixels wide and high."""
    data = bytearray(file_of(kind, 20, 20))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        data[18:26] = struct.pack("<ii", side, -side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_decode_refuses_too_many_claimed_pixels_before_decoding(kind: str) -> None:
    side = 60_000
    assert side * side > MAX_PIXELS
    tracemalloc.start()
    with pytest.raises(UnreadablePictureError, match=r"x\.img: too large: 60000x60000, at most 134 million pixels"):
        decode(claiming(kind, side), "x.img")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
