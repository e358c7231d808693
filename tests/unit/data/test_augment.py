from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from vplface.data.augment import Augmentation

OFF = {field.name: 0.0 for field in fields(Augmentation)}


def only(**changes: float) -> Augmentation:
    return Augmentation(**(OFF | changes))


def picture(seed: int = 0) -> np.ndarray:
    """Smooth, coloured and lop-sided, away from black and white so that nothing is clipped."""
    noise = np.random.default_rng(seed).normal(size=(112, 112, 3))
    smooth = ndimage.gaussian_filter(noise, (8, 8, 0))
    return np.rint(128 + 40 * smooth / np.abs(smooth).max()).astype(np.uint8)


def test_Augmentation_with_all_options_zero_changes_nothing() -> None:
    assert np.array_equal(only()(picture(), np.random.default_rng(0)), picture())


def test_Augmentation_flip_mirrors_with_the_given_probability() -> None:
    source = picture()
    assert np.array_equal(only(flip=1.0)(source, np.random.default_rng(0)), source[:, ::-1])
    flipped = sum(
        np.array_equal(only(flip=0.3)(source, np.random.default_rng(seed)), source[:, ::-1]) for seed in range(400)
    )
    assert 80 < flipped < 160


def test_Augmentation_writes_a_flip_to_out_and_returns_an_unflipped_source_itself() -> None:
    source = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    out = np.zeros_like(source)
    assert only(flip=1.0)(source, np.random.default_rng(0), out) is out
    assert np.array_equal(out, source[:, ::-1])
    assert only(flip=0.0)(source, np.random.default_rng(0), out) is source


def test_Augmentation_flip_alone_equals_the_flip_of_the_general_path() -> None:
    """A blur of probability 1e-300 never happens, but selects the general path."""
    alone, among = only(flip=0.5), only(flip=0.5, blur=1e-300)
    results = [[way(picture(), np.random.default_rng(seed)) for way in (alone, among)] for seed in range(50)]
    assert all(np.array_equal(one, other) for one, other in results)
    assert 10 < sum(np.array_equal(one, picture()) for one, _ in results) < 40


class Fixed:
    """A generator whose uniform draws are all of one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, count: int | None = None) -> np.ndarray | float:
        return self.value if count is None else np.full(count, self.value)


def inside(changed: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference away from the border, where there is nothing to interpolate from."""
    return float(np.abs(changed[25:-25, 25:-25].astype(float) - expected[25:-25, 25:-25]).mean())


@pytest.mark.parametrize("flip", [False, True])
def test_Augmentation_flip_shift_scale_and_rotate_agree_with_scipy(flip: bool) -> None:
    """Largest shift (10 % of 112 pixels), growth by a tenth and a turn of 20 degrees, all about the centre."""
    source = picture()
    augmentation = only(flip=1.0 if flip else 0.0, shift=0.1, scale=0.1, rotate=20.0)
    changed = augmentation(source, Fixed(0.9999999))
    reference = (source[:, ::-1] if flip else source).astype(float)
    angle = np.deg2rad(20)
    # From an output (row, column) back to the input: undo the shift, then turn and shrink about the centre.
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / 1.1
    centre = np.array([55.5, 55.5])
    offset = centre - turn @ (centre + 11.2)
    expected = np.stack(
        [ndimage.affine_transform(reference[..., c], turn, offset, order=1, mode="mirror") for c in range(3)], -1
    )
    assert inside(changed, expected) < 0.6
    assert inside(changed, reference) > 3


def test_Augmentation_shift_reaches_its_limit_and_a_middle_draw_changes_nothing() -> None:
    source = picture()
    still = only(shift=0.3, scale=0.5, rotate=90.0, light=1.0)(source, Fixed(0.5))
    assert np.abs(still.astype(int) - source).max() <= 1
    row = np.tile(np.arange(112, dtype=np.uint8)[None, :, None], (112, 1, 3))
    moved = only(shift=0.25)(row, Fixed(0.0))  # 28 pixels to the left
    assert np.array_equal(moved[50, :80, 0], np.arange(28, 108))


@pytest.mark.parametrize(("strength", "uniform"), [(0.4, 0.75), (1.0, 0.9999999), (1.0, 0.0), (0.7, 0.1)])
def test_Augmentation_light_is_the_documented_affine_map(strength: float, uniform: float) -> None:
    source = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    changed = only(light=strength)(source, Fixed(uniform))
    draw = strength * (2 * uniform - 1)
    luma = (source @ np.array([0.299, 0.587, 0.114]))[..., None]
    saturated = luma + (1 + draw) * (source - luma)
    expected = 127.5 + (1 + 0.5 * draw) * ((1 + 0.3 * draw) * saturated - 127.5) + 96 * draw
    error = np.abs(changed - np.clip(expected, 0, 255))
    assert error.max() <= 1.0  # OpenCV computes it in fixed point
    assert error.mean() < 0.3


def test_Augmentation_grey_has_no_colour_and_the_right_luma() -> None:
    source = picture()
    for augmentation in (only(grey=1.0), only(grey=1.0, light=0.5)):
        changed = augmentation(source, np.random.default_rng(0))
        assert (changed == changed[..., :1]).all()
    luma = source @ np.array([0.299, 0.587, 0.114])
    assert np.abs(only(grey=1.0)(source, Fixed(0.5))[..., 0] - luma).max() <= 0.51


@pytest.mark.parametrize("name", ["low_resolution", "blur"])
def test_Augmentation_low_resolution_and_blur_remove_detail_and_keep_the_mean(name: str) -> None:
    source = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    for seed in range(5):
        changed = only(**{name: 1.0})(source, np.random.default_rng(seed))
        assert changed.shape == source.shape
        assert changed.std() < 0.9 * source.std()
        assert abs(changed.mean() - source.mean()) < 2


def test_Augmentation_occlusion_hides_one_rectangle_of_the_stated_area() -> None:
    source = np.full((112, 112, 3), 7, np.uint8)
    shares, fillings = [], set()
    for seed in range(200):
        changed = only(occlusion=1.0)(source, np.random.default_rng(seed))
        rows, columns = np.nonzero((changed != 7).any(-1))
        box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box != 7).any(-1).mean() > 0.95  # filled all over; noise may hit 7
        shares.append(box.shape[0] * box.shape[1] / 112**2)
        assert 0.45 < box.shape[0] / box.shape[1] < 2.2
        fillings.add("one colour" if (box == box[0, 0]).all() else "noise")
    assert 0.035 < min(shares) < 0.06
    assert 0.22 < max(shares) < 0.26
    assert fillings == {"one colour", "noise"}


probabilities = st.floats(0, 1)


@given(
    st.builds(
        Augmentation,
        flip=probabilities,
        shift=st.floats(0, 0.5),
        scale=st.floats(0, 0.9),
        rotate=st.floats(0, 180),
        light=probabilities,
        low_resolution=probabilities,
        occlusion=probabilities,
        grey=probabilities,
        blur=probabilities,
    ),
    st.integers(0, 1000),
    st.sampled_from([(112, 112), (16, 40)]),
)
def test_Augmentation_is_deterministic_and_leaves_its_source_unchanged(
    augmentation: Augmentation, seed: int, side: tuple[int, int]
) -> None:
    source = picture(seed)[: side[0], : side[1]].copy()
    original = source.copy()
    source.flags.writeable = False
    first = augmentation(source, np.random.default_rng(seed))
    second = augmentation(source, np.random.default_rng(seed))
    assert first.dtype == np.uint8
    assert first.shape == source.shape
    assert first.flags.c_contiguous
    assert np.array_equal(first, second)
    assert np.array_equal(source, original)


def test_Augmentation_occlusion_leaves_the_draws_of_other_changes_unchanged() -> None:
    for seed in range(20):
        without = only(flip=0.5, shift=0.1)(picture(), np.random.default_rng(seed))
        hidden = only(flip=0.5, shift=0.1, occlusion=1.0)(picture(), np.random.default_rng(seed))
        assert (without == hidden).all(-1).mean() > 0.7


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("value", [-0.1, 181.0, float("nan"), float("inf")])
def test_Augmentation_names_an_option_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must lie in 0"):
        Augmentation(**{name: value})
