from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from helpers.host_traffic import DEVICE, host_traffic
from vplface.data.encoded import memory_of
from vplface.data.pictures import (
    Preprocessing,
    UnreadablePictureError,
    decode,
    decode_whole,
    read_picture_file,
)
from vplface.errors import DataError


def smooth_picture(height: int = 112, width: int = 112) -> np.ndarray:
    """RGB with red growing downwards, green rightwards and blue constant: no two orientations look alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [rows * 255 // (height - 1), columns * 255 // (width - 1), np.full((height, width), 40)], -1
    ).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str, **options: object) -> bytes:
    """Encode with Pillow, which shares no code with the reader under test."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_decode_returns_lossless_pictures_exactly_in_RGB(kind: str) -> None:
    picture = smooth_picture()
    decoded = decode(encoded(picture, kind, **LOSSLESS[kind]), "x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, picture)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 95})]
)
def test_decode_returns_lossy_pictures_within_a_small_error_in_RGB(kind: str, options: dict[str, object]) -> None:
    picture = smooth_picture()
    error = np.abs(decode(encoded(picture, kind, **options), "x").astype(int) - picture)
    assert error.mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
@pytest.mark.parametrize("side", [(112, 112), (131, 90), (300, 200)])
def test_decode_equals_the_reversed_BGR_of_cv2_imdecode_bit_for_bit(kind: str, side: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if side != (112, 112):
        shrinks = min(side) >= 112
        bgr = cv2.resize(bgr, (112, 112), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    np.testing.assert_array_equal(decode(data, "x"), bgr[..., ::-1])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_decode_expands_grey_to_three_channels(kind: str) -> None:
    grey = smooth_picture()[..., 0]
    decoded = decode(encoded(grey, kind), "x").astype(int)
    assert np.abs(decoded - grey[..., None]).max() <= (3 if kind == "JPEG" else 0)


def test_decode_reads_one_bit_pictures() -> None:
    drawing = np.zeros((112, 112), bool)
    drawing[:, 50:] = True
    np.testing.assert_array_equal(decode(encoded(drawing, "PNG"), "x")[:, :, 1], drawing * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decode_composites_transparency_on_black(kind: str) -> None:
    opacity = np.full((112, 112, 1), 128, np.uint8)
    opacity[:20] = 0
    picture = np.concatenate([np.full((112, 112, 3), (200, 100, 50), np.uint8), opacity], -1)
    decoded = decode(encoded(picture, kind, **LOSSLESS[kind]), "x")
    assert decoded[5, 5].tolist() == [0, 0, 0]
    assert decoded[60, 60].tolist() == [100, 50, 25]  # 200 x 128/255 = 100.4, ...


def test_decode_composites_transparent_palettes_and_grey_with_alpha() -> None:
    grey_alpha = Image.merge("LA", [Image.new("L", (112, 112), 200), Image.new("L", (112, 112), 128)])
    palette = Image.new("P", (112, 112), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for picture, expected in ((grey_alpha, [100, 100, 100]), (palette, [0, 0, 0])):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **({"transparency": 1} if picture is palette else {}))
        assert decode(buffer.getvalue(), "x")[50, 50].tolist() == expected


def test_decode_reduces_16_bits_to_8() -> None:
    deep = smooth_picture().astype(np.uint16) * 257
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data, "x"), smooth_picture())
    with_alpha = np.dstack([deep[..., ::-1], np.full((112, 112), 65535, np.uint16)])
    np.testing.assert_array_equal(decode(cv2.imencode(".png", with_alpha)[1].tobytes(), "x"), smooth_picture())


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (3, lambda p: np.rot90(p, 2)),
        (2, np.fliplr),
        (6, lambda p: np.rot90(p, -1)),  # "rotate 90° clockwise to view"
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_decode_applies_exif_orientation(orientation: int, turned) -> None:
    picture = smooth_picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(picture, "JPEG", quality=95, exif=exif), "x")
    assert np.abs(decoded.astype(int) - turned(picture)).mean() < 4


@pytest.mark.parametrize("side", [(224, 224), (50, 60), (300, 80)])
def test_decode_resizes_to_the_requested_size(side: tuple[int, int]) -> None:
    decoded = decode(encoded(smooth_picture(*side), "PNG"), "x")
    assert np.abs(decoded.astype(int) - smooth_picture()).mean() < 4
    assert decode(encoded(smooth_picture(*side), "PNG"), "x", size=64).shape == (64, 64, 3)


def test_decode_refuses_pictures_that_are_too_small_and_names_the_size() -> None:
    with pytest.raises(UnreadablePictureError, match=r"a/b\.png: too small: 200x15, needs 16"):
        decode(encoded(smooth_picture(15, 200), "PNG"), "a/b.png")
    assert decode(encoded(smooth_picture(16, 16), "PNG"), "x").shape == (112, 112, 3)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})]
)
def test_decode_detects_every_truncation(kind: str, options: dict[str, object]) -> None:
    data = encoded(smooth_picture(), kind, **options)
    for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1, len(data) - 2}:
        with pytest.raises(UnreadablePictureError, match=r"^some/where: "):
            decode(data[:length], "some/where")


def test_decode_detects_a_jpeg_truncated_after_its_embedded_thumbnail() -> None:
    thumbnail = encoded(smooth_picture(32, 32), "JPEG")
    application = b"Exif\0\0" + thumbnail
    whole = encoded(smooth_picture(), "JPEG")
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(application) + 2) + application + whole[2:]
    assert decode(data, "x").shape == (112, 112, 3)
    with pytest.raises(UnreadablePictureError, match="cut short"):
        decode(data[:-200], "x")


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\xff\xff\xff", b"after the picture"])
def test_decode_ignores_bytes_after_a_jpeg(tail: bytes) -> None:
    assert decode(encoded(smooth_picture(), "JPEG") + tail, "x").shape == (112, 112, 3)


def test_decode_detects_a_jpeg_whose_end_is_overwritten_by_zeros() -> None:
    data = encoded(smooth_picture(), "JPEG", quality=95)
    with pytest.raises(UnreadablePictureError, match="cut short"):
        decode(data[:1000] + b"\0" * (len(data) - 1000), "x")


def test_decode_detects_a_flipped_bit_in_a_png() -> None:
    data = bytearray(encoded(smooth_picture(), "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(UnreadablePictureError, match="damaged"):
        decode(bytes(data), "x")


HEADS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"RIFF\x10\0\0\0WEBPVP8X", b"BM", b"GIF89a"]


@given(st.sampled_from(HEADS), st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd9"]))
def test_decode_raises_UnreadablePictureError_for_random_bytes(head: bytes, body: bytes, tail: bytes) -> None:
    with pytest.raises(UnreadablePictureError):
        decode(head + body + tail, "garbage")


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_decode_of_damaged_files_returns_a_picture_or_raises_UnreadablePictureError(
    kind: str, position: int, patch: bytes
) -> None:
    data = bytearray(encoded(smooth_picture(40, 40), kind))
    position %= len(data)
    data[position : position + len(patch)] = patch
    with suppress(UnreadablePictureError):
        assert decode(bytes(data), "x").shape == (112, 112, 3)


def test_UnreadablePictureError_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadablePictureError("a.jpg", "broken")))
    assert (error.where, error.reason, str(error)) == ("a.jpg", "broken", "a.jpg: broken")


def test_Preprocessing_by_default_scales_levels_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(148)[: 112 * 112 * 3].reshape(1, 112, 112, 3)
    output = Preprocessing()(levels)
    assert output.shape == (1, 3, 112, 112)
    assert output.dtype == torch.float32
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(output, (levels.permute(0, 3, 1, 2).float() - 127.5) / 127.5)


@pytest.mark.parametrize("count", [0, 1, 16, 37])
def test_Preprocessing_transforms_every_picture_of_a_batch(count: int) -> None:
    pictures = torch.randint(0, 256, (count, 30, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    output = Preprocessing(size=30, color="bgr", std=(0.1, 0.2, 0.3))(pictures)
    expected = (pictures.flip(-1).double() - 127.5) / (255 * torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    torch.testing.assert_close(output, expected.permute(0, 3, 1, 2).float())
    backwards = pictures.flip(1).transpose(1, 2)  # another layout in memory
    torch.testing.assert_close(
        Preprocessing(size=30)(backwards)[:, 0].double(),
        (backwards[..., 0].double() - 127.5) / 127.5,
        atol=1e-6,
        rtol=0,
    )


def test_Preprocessing_applies_color_mean_and_std() -> None:
    preprocessing = Preprocessing(size=2, color="bgr", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    red_green_blue = torch.tensor([51, 102, 204], dtype=torch.uint8).expand(1, 2, 2, 3)
    output = preprocessing(red_green_blue)[0, :, 0, 0]
    np.testing.assert_allclose(output, [0.8 - 0.1, (0.4 - 0.2) / 2, (0.2 - 0.3) / 4], atol=1e-6)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_Preprocessing_sends_its_constants_to_a_device_once() -> None:
    preprocessing, pictures = Preprocessing(size=21), torch.zeros(2, 21, 21, 3, dtype=torch.uint8, device=DEVICE)
    with host_traffic() as first:
        preprocessing(pictures)
    with host_traffic() as second:
        preprocessing(pictures)
    assert first.to_device == [(63,)]  # mean and std are equal
    assert second.to_device == []


def test_Preprocessing_refuses_invalid_pictures_and_settings() -> None:
    with pytest.raises(TypeError, match="uint8"):
        Preprocessing()(torch.zeros(1, 112, 112, 3))
    with pytest.raises(ValueError, match=r"\[n, 112, 112, 3\]"):
        Preprocessing()(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))
    with pytest.raises(ValueError, match="color"):
        Preprocessing(color="RGB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="std"):
        Preprocessing(std=(0.0, 1.0, 1.0))
    with pytest.raises(DataError, match="keys"):
        Preprocessing.from_dict({"size": 112})
    with pytest.raises(DataError, match="mean"):
        Preprocessing.from_dict(Preprocessing().to_dict() | {"mean": [1, 2]})
    with pytest.raises(DataError, match="preprocessing"):
        Preprocessing.from_dict(Preprocessing().to_dict() | {"std": "abc"})


def transparent(mode: str) -> Image.Image:
    """A picture of this mode, of other height than width, whose transparency differs from row to row."""
    colours = Image.fromarray(smooth_picture(40, 64))
    opacity = Image.fromarray(np.linspace(0, 255, 40).round().astype(np.uint8).repeat(64).reshape(40, 64))
    if mode == "P":
        return colours.convert("P")
    whole = colours.convert("L" if mode == "LA" else "RGB")
    return Image.merge(mode, (*whole.split(), opacity)) if mode in ("LA", "RGBA") else whole


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "WEBP"), ("RGB", "WEBP")]
)
def test_decode_whole_orients_and_composites_as_pillow_does(mode: str, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {"transparency": 3} if mode == "P" else {}
    transparent(mode).save(buffer, kind, exif=exif, **options)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).convert("RGBA")
    colours = np.asarray(shown).astype(float)
    expected = np.rint(colours[..., :3] * (colours[..., 3:] / 255))
    decoded = decode_whole(buffer.getvalue(), "x")
    assert decoded.flags.c_contiguous
    np.testing.assert_allclose(decoded, expected, atol=1)  # a half may be rounded to either side


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"\0" * 200])
def test_decode_whole_ignores_a_damaged_exif_orientation(exif: bytes) -> None:
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    buffer = io.BytesIO()
    transparent("RGBA").save(buffer, "PNG")
    data = buffer.getvalue()
    np.testing.assert_array_equal(decode_whole(data[:33] + chunk + data[33:], "x"), decode_whole(data, "x"))


def test_decode_whole_composites_in_little_more_memory_than_picture_and_result() -> None:
    data = encoded(np.full((2048, 2048, 4), 128, np.uint8), "PNG", compress_level=1)
    tracemalloc.start()
    try:
        picture = decode_whole(data, "x")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert picture[0, 0].tolist() == [64, 64, 64]
    assert most < 10 * 2048 * 2048


def header(width: int, height: int, depth: int, colours: int, *, interlaced: bool = False) -> bytes:
    """A PNG that is whole and has no pixels."""
    chunks = b""
    begin = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    for kind, body in ((b"IHDR", begin), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colours"), [(16, 6), (16, 4)])
def test_decode_refuses_pictures_that_need_more_than_a_gigabyte(depth: int, colours: int, interlaced: bool) -> None:
    with pytest.raises(UnreadablePictureError, match=r"x: too large: 11585x11585 .* 2\.0 GiB .* the limit is 1"):
        decode(header(11585, 11585, depth, colours, interlaced=interlaced), "x")
    with pytest.raises(UnreadablePictureError, match="damaged"):  # small enough, and empty
        decode(header(100, 100, depth, colours, interlaced=interlaced), "x")


@pytest.mark.parametrize(
    ("kind", "options", "cost"),
    [("JPEG", {}, 6), ("JPEG", {"progressive": True}, 9), ("WEBP", {}, 6), ("WEBP", {"lossless": True}, 10)],
)
def test_memory_of_depends_on_how_a_picture_is_stored(kind: str, options: dict[str, object], cost: int) -> None:
    assert memory_of(encoded(smooth_picture(), kind, **options)) == cost * 112 * 112


PEAKS = """
import os, sys
from pathlib import Path
from vplface.data.pictures import decode_whole

def resident(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])

for path in sys.argv[1:]:
    if os.fork() == 0:
        data = Path(path).read_bytes()
        before = resident("VmRSS")
        decode_whole(data, "x")
        print(resident("VmHWM") - before, flush=True)
        os._exit(0)
    os.wait()
"""
LARGE = [
    ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("PNG", "RGB", {"compress_level": 1}),
    ("PNG", "RGBA", {"compress_level": 1}), ("BMP", "RGB", {}), ("WEBP", "RGB", {}),
    ("WEBP", "RGB", {"lossless": True, "quality": 0}), ("WEBP", "RGBA", {"quality": 0}),
]  # fmt: skip


@pytest.fixture(scope="module")
def large_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, int]]:
    """Pictures, and the bytes by which a process grows at most while it decodes each."""
    folder = tmp_path_factory.mktemp("large")
    paths = [folder / str(number) for number in range(len(LARGE))]
    for path, (kind, mode, options) in zip(paths, LARGE, strict=True):
        Image.new(mode, (2800, 2800), (90, 120, 150, 100)[: len(mode)]).save(path, kind, **options)
    done = subprocess.run([sys.executable, "-c", PEAKS, *paths], capture_output=True, check=True, timeout=100)
    return [(path.read_bytes(), int(peak)) for path, peak in zip(paths, done.stdout.split(), strict=True)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("number", range(len(LARGE)), ids=[f"{kind}-{mode}-{options}" for kind, mode, options in LARGE])
def test_decode_whole_needs_no_more_memory_than_memory_of_predicts(
    large_pictures: list[tuple[bytes, int]], number: int
) -> None:
    data, peak = large_pictures[number]
    assert 3 * 2800**2 <= peak <= memory_of(data) + 2**24  # bands and tables


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("Failed to allocate 1 bytes")])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_decode_raises_UnreadablePictureError_if_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, mode: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    data = encoded(np.asarray(transparent(mode)), "PNG")
    for function in ("imdecode", "resize"):
        with monkeypatch.context() as patch:
            patch.setattr(cv2, function, fail)
            with pytest.raises(UnreadablePictureError, match=r"too large|cannot be decoded"):
                decode(data, "x")


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x20ftypmif1", "HEIC"), (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"II*\0", "TIFF or raw"), (b"MM\0*", "TIFF or raw"), (b"GIF89a", "GIF"), (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ],
)  # fmt: skip
def test_decode_names_the_type_of_an_unsupported_file(begin: bytes, kind: str) -> None:
    with pytest.raises(UnreadablePictureError, match=f"^1.jpg: not a jpg, .* but a {kind} one; convert it to JPEG$"):
        decode(begin + b"\0" * 100, "1.jpg")


def test_read_picture_file_refuses_irregular_files_and_invalid_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "endless.jpg", "x" * 300, "a\0b.jpg"):
        with pytest.raises(UnreadablePictureError, match=r"not a regular file|too long|null"):
            read_picture_file(tmp_path / name)
