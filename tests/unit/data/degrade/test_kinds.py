"""The kinds of degradation."""

from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.data.degrade import (
    KINDS,
    Blur,
    Compression,
    Darkness,
    LowResolution,
    Noise,
    Occlusion,
    Strokes,
    Surveillance,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
FLAT = np.full((112, 112, 3), 128, np.uint8)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_kinds_give_uint8_of_the_same_size_and_leave_the_picture_as_it_was(
    kind: str, height: int, width: int, seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = picture.copy()
    degraded = KINDS[kind]()(picture, generator(seed))
    assert degraded.dtype == np.uint8
    assert degraded.shape == picture.shape
    assert np.array_equal(picture, before)


def test_LowResolution_keeps_as_many_values_as_pixels() -> None:
    """A ramp at p pixels has p means, 112/p apart; enlarged, it is a straight line between the outer two."""
    ramp = np.tile(np.arange(112, dtype=np.uint8)[None, :, None], (112, 1, 3))
    degraded = LowResolution((7, 7))(ramp, generator())
    centres = [8 + 16 * number for number in range(7)]
    assert np.abs(degraded[0, centres, 0] - (np.array(centres) - 0.5)).max() <= 1
    assert (degraded[:, :8] == degraded[0, 0, 0]).all()
    assert degraded[0, 0, 0] == 8  # the mean of 0..15, rounded
    assert degraded[0, -1, 0] == 104


@pytest.mark.parametrize("pixels", range(7, 12))
def test_LowResolution_leaves_no_frequency_above_that_of_its_pixels(pixels: int) -> None:
    """Linear interpolation of p pixels: the energy beyond p cycles per side is below one percent."""
    spectrum = np.abs(np.fft.rfft(LowResolution((pixels, pixels))(PICTURE, generator()).mean(axis=(0, 2)))) ** 2
    before = np.abs(np.fft.rfft(PICTURE.mean(axis=(0, 2)))) ** 2
    assert spectrum[pixels + 1 :].sum() < 0.01 * spectrum[1:].sum() + 0.01 * before[1:].sum()
    assert before[pixels + 1 :].sum() > 0.5 * before[1:].sum()


def test_LowResolution_draws_every_whole_number_of_the_range() -> None:
    picture = np.repeat(np.repeat(np.arange(2, dtype=np.uint8) * 255, 56)[None, :, None], 112, 0).repeat(3, 2)
    found = {LowResolution((7, 9))(picture, generator(seed)).tobytes() for seed in range(60)}
    expected = {LowResolution((pixels, pixels))(picture, generator()).tobytes() for pixels in (7, 8, 9)}
    assert found == expected
    assert len(expected) == 3


def test_LowResolution_reduces_the_shorter_side_and_leaves_small_pictures() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, 50:] = 200
    shrunk = cv2.resize(wide, (20, 10), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(shrunk, (100, 50), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(LowResolution((10, 10))(wide, generator()), expected)
    small = PICTURE[:9, :30]
    assert np.array_equal(LowResolution((9, 11))(small, generator()), small)


def test_Blur_spreads_a_point_by_sigma() -> None:
    point = np.zeros((111, 111, 3), np.uint8)
    point[45:66, 45:66] = 255
    blurred = Blur((4.0, 4.0))(point, generator()).astype(float)[..., 0]
    across = blurred.sum(axis=0) / blurred.sum()
    variance = (across * (np.arange(111) - 55) ** 2).sum()
    assert variance == pytest.approx(4.0**2 + (21**2 - 1) / 12, rel=0.03)


def test_Noise_has_the_standard_deviation_and_no_bias() -> None:
    noise = Noise((20.0, 20.0))(FLAT, generator()).astype(float) - 128
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert abs(noise.mean()) < 4 * 20 / noise.size**0.5
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.04
    assert np.array_equal(Noise((0.0, 0.0))(PICTURE, generator()), PICTURE)


def test_Compression_is_that_of_a_JPEG_file_of_the_quality_in_the_right_colours() -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 220
    degraded = Compression((50, 50))(red, generator()).astype(int)
    assert np.abs(degraded - red).max() < 8
    grey = np.repeat(PICTURE[..., :1], 3, axis=2)
    poor, good = (Compression((quality, quality))(grey, generator()).astype(int) for quality in (3, 95))
    assert np.abs(poor - grey).mean() > 10 * np.abs(good - grey).mean()


def test_Darkness_multiplies_and_adds_noise() -> None:
    assert (Darkness((0.25, 0.25), (0.0, 0.0))(FLAT, generator()) == 32).all()
    noisy = Darkness((0.25, 0.25), (3.0, 3.0))(FLAT, generator()).astype(float)
    assert noisy.mean() == pytest.approx(32, abs=0.1)
    assert noisy.std() == pytest.approx(3, rel=0.03)
    assert not Darkness((0.0, 0.0), (0.0, 0.0))(PICTURE, generator()).any()


@pytest.mark.parametrize("area", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_Occlusion_hides_one_rectangle_of_the_area_in_a_colour_of_the_picture(area: float) -> None:
    colours = {tuple(pixel) for pixel in PICTURE.reshape(-1, 3).tolist()}
    for seed in range(20):
        degraded = Occlusion((area, area))(PICTURE, generator(seed))
        changed = (degraded != PICTURE).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        inside = degraded[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside == inside[0, 0]).all()
        assert tuple(inside[0, 0].tolist()) in colours
        assert inside.shape[0] * inside.shape[1] / 112**2 == pytest.approx(area, abs=0.02)


def test_Surveillance_is_smooth_dark_and_different_from_low_resolution_alone() -> None:
    kind = Surveillance((16, 16), (0.5, 0.5), (0.5, 0.5), (5.0, 5.0), (40, 40))
    degraded = kind(FLAT, generator()).astype(float)
    assert degraded.mean() == pytest.approx(64, abs=3)
    assert degraded.std() > 1  # noise and compression
    steps = np.abs(np.diff(degraded, axis=1)).mean()
    assert steps < 0.5 * np.abs(np.diff(Noise((5.0, 5.0))(FLAT, generator()).astype(float), axis=1)).mean()


@pytest.mark.parametrize(
    ("kind", "key", "lowest", "highest"),
    [
        (LowResolution, "pixels", 1, 112),
        (Blur, "sigma", 0.1, 112),
        (Noise, "sigma", 0, 255),
        (Compression, "quality", 1, 100),
        (Darkness, "light", 0, 1),
        (Darkness, "noise", 0, 255),
        (Occlusion, "area", 0.01, 1),
        (Surveillance, "pixels", 1, 112),
        (Surveillance, "blur", 0.1, 112),
        (Surveillance, "light", 0, 1),
        (Surveillance, "noise", 0, 255),
        (Surveillance, "quality", 1, 100),
        (Strokes, "thinning", 1, 112),
        (Strokes, "gaps", 0, 112),
        (Strokes, "gap", 1, 112),
        (Strokes, "blur", 0.1, 112),
    ],
)
def test_kinds_name_a_range_that_is_out_of_bounds_or_upside_down(
    kind: type, key: str, lowest: float, highest: float
) -> None:
    kind(**{key: (lowest, highest)})
    for ends in ((lowest - 0.01, highest), (lowest, highest + 1), (highest, lowest), (lowest,), (float("nan"), 1)):
        with pytest.raises(ValueError, match=f"^{key} must be two numbers within"):
            kind(**{key: ends})


def test_kinds_are_all_tested_at_their_bounds() -> None:
    assert {name for kind in KINDS.values() for name in (field.name for field in fields(kind))} == {
        "pixels",
        "sigma",
        "quality",
        "light",
        "noise",
        "area",
        "blur",
        "thinning",
        "gaps",
        "gap",
    }


def bar(ground: int, ink: int) -> np.ndarray:
    """A vertical stroke, seven pixels wide."""
    picture = np.full((112, 112, 3), ground, np.uint8)
    picture[20:92, 50:57] = ink
    return picture


def test_Strokes_thins_by_the_disc_and_leaves_the_ground():
    thinned = Strokes(thinning=(3, 3), gaps=(0, 0), blur=(0.1, 0.1))(bar(255, 0), generator())
    expected = np.full((112, 112, 3), 255, np.uint8)
    expected[21:91, 51:56] = 0
    assert np.array_equal(thinned, expected)


def test_Strokes_of_diameter_1_without_gaps_only_blurs():
    picture = bar(255, 0)
    assert np.array_equal(
        Strokes((1, 1), (0, 0), (1, 1), (2.0, 2.0))(picture, generator()), Blur((2.0, 2.0))(picture, generator())
    )


def test_Strokes_breaks_at_places_that_were_drawn():
    picture = bar(255, 0)
    broken = Strokes((1, 1), (1, 1), (5, 5), (0.1, 0.1))(picture, generator())
    rows, columns = np.nonzero((broken != picture).any(2))
    assert 0 < len(rows) <= 21  # the pixels of a disc of diameter 5
    assert np.ptp(rows) < 5
    assert np.ptp(columns) < 5
    assert (broken[rows, columns] == 255).all()


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_Strokes_treats_light_on_dark_as_dark_on_light(seed, height, width):
    rng = generator(seed)
    drawing = np.repeat(rng.choice(np.uint8([0, 255]), (height, width, 1), p=(0.3, 0.7)), 3, axis=2)
    if np.median(drawing) in (0, 255):
        worn = Strokes()(drawing, generator(seed))
        assert np.array_equal(Strokes()(255 - drawing, generator(seed)), 255 - worn)


def test_Strokes_leaves_an_empty_sheet():
    assert np.array_equal(
        Strokes()(np.full((40, 40, 3), 255, np.uint8), generator()), np.full((40, 40, 3), 255, np.uint8)
    )
