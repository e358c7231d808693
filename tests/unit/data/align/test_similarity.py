"""The closed form against an iterative solver and complex numbers; crops against pictures of known values."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import least_squares

from vplface.data.align import TEMPLATE, similarity, warp

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.01, 100)
shifts = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
noise = hnp.arrays(np.float64, (5, 2), elements=st.floats(-8, 8))


def matrix(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:, :2].T + transform[:, 2]


@given(scales, angles, shifts)
def test_similarity_recovers_exact_similarities(scale, angle, shift):
    true = matrix(scale, angle, shift)
    np.testing.assert_allclose(similarity(TEMPLATE, apply(true, TEMPLATE)), true, rtol=1e-9, atol=1e-9 * (1 + scale))


@given(noise, noise, scales, angles, shifts)
def test_similarity_equals_the_least_squares_solution_in_complex_numbers(
    source_noise, target_noise, scale, angle, shift
):
    """Over the complex numbers a similarity without reflection is y = ax + b, fitted by linear regression."""
    source = TEMPLATE + source_noise
    target = apply(matrix(scale, angle, shift), TEMPLATE + target_noise)
    x, y = source @ (1, 1j), target @ (1, 1j)
    a = np.vdot(x - x.mean(), y - y.mean()) / np.vdot(x - x.mean(), x - x.mean())
    b = y.mean() - a * x.mean()
    expected = [[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]
    np.testing.assert_allclose(similarity(source, target), expected, rtol=1e-8, atol=1e-8 * (1 + abs(a) + abs(b)))


@pytest.mark.parametrize("seed", range(10))
def test_similarity_agrees_with_an_iterative_solver(seed):
    rng = np.random.default_rng(seed)
    source = TEMPLATE + rng.normal(0, 6, (5, 2))
    target = apply(matrix(rng.uniform(0.2, 5), rng.uniform(-3, 3), rng.uniform(-99, 99, 2)), TEMPLATE)

    def residuals(p):
        return (apply(matrix(p[0], p[1], p[2:]), source) - target).ravel()

    starts = ([1, angle, *target.mean(0)] for angle in (0, 1.5, 3, 4.5))
    solutions = (least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-12) for start in starts)
    solved = min(solutions, key=lambda solution: solution.cost)
    found = similarity(source, target)
    np.testing.assert_allclose(found, matrix(solved.x[0], solved.x[1], solved.x[2:]), atol=1e-4)
    assert ((apply(found, source) - target) ** 2).sum() <= 2 * solved.cost + 1e-9


@given(scales, angles, shifts, st.sampled_from([(-1, 1), (1, -1)]))
def test_similarity_rotates_mirrored_points_and_never_reflects(scale, angle, shift, mirror):
    found = similarity(TEMPLATE * mirror, apply(matrix(scale, angle, shift), TEMPLATE))
    assert np.linalg.det(found[:, :2]) > 0


def test_similarity_refuses_points_that_every_rotation_fits_equally():
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    with pytest.raises(ValueError, match="mirror images"):
        similarity(square, square * (-1, 1))


@given(shifts, st.floats(0, 1e4), angles)
def test_similarity_refuses_coincident_or_collinear_points(shift, length, angle):
    along = np.outer(np.linspace(0, length, 5), (np.cos(angle), np.sin(angle))) + shift
    for source, target in ((along, TEMPLATE), (TEMPLATE, along)):
        with pytest.raises(ValueError, match=r"coincide|one line"):
            similarity(source, target)
    with pytest.raises(ValueError, match="the points coincide"):
        similarity(np.tile(shift, (5, 1)), TEMPLATE)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_similarity_refuses_numbers_that_are_not_finite(wrong):
    source = TEMPLATE.copy()
    source[2, 1] = wrong
    with pytest.raises(ValueError, match="not a finite number"):
        similarity(source, TEMPLATE)


def test_similarity_refuses_unequal_shapes_and_fewer_than_three_points():
    with pytest.raises(ValueError, match=r"\[5, 2\] and \[4, 2\]"):
        similarity(TEMPLATE, TEMPLATE[:4])
    with pytest.raises(ValueError, match="at least three"):
        similarity(TEMPLATE[:2], TEMPLATE[:2])


@settings(max_examples=20)
@given(st.floats(0.2, 3), angles)
def test_warp_maps_every_pixel_to_its_place_in_the_picture(scale, angle):
    """Red is x / 4 and green y / 4: interpolation and averaging leave linear values unchanged."""
    y, x = np.mgrid[:800, :800]
    picture = np.stack([x / 4, y / 4, 0 * x], axis=-1).round().astype(np.uint8)
    transform = matrix(scale, angle, (0, 0))
    transform[:, 2] = 55.5 - transform[:, :2] @ (399.5, 399.5)
    crop = warp(picture, transform, 112).astype(float)
    rows, columns = np.mgrid[:112, :112]
    back = np.linalg.solve(transform[:, :2], (np.stack([columns, rows], -1).reshape(-1, 2) - transform[:, 2]).T).T
    seen = ((back > 8) & (back < 791)).all(1)
    np.testing.assert_allclose(crop.reshape(-1, 3)[seen, :2], back[seen] / 4, atol=1.1)


@pytest.mark.parametrize("shrink", [2, 4, 9, 20])
def test_warp_averages_fine_lines_to_grey_when_it_shrinks(shrink):
    picture = np.zeros((112 * shrink, 112 * shrink, 3), np.uint8)
    picture[:, ::2] = 254
    crop = warp(picture, matrix(1 / shrink, 0, (0.5 / shrink - 0.5, 0.5 / shrink - 0.5)), 112)
    assert np.abs(crop[2:-2, 2:-2].astype(int) - 127).max() <= 127 / shrink + 1


def test_warp_above_half_size_equals_cv2_warpAffine_with_a_black_border():
    picture = np.random.default_rng(0).integers(1, 256, (90, 130, 3), np.uint8)
    transform = matrix(0.8, 0.3, (25, -10))
    crop = warp(picture, transform, 112)
    np.testing.assert_array_equal(crop, cv2.warpAffine(picture, transform, (112, 112), flags=cv2.INTER_LINEAR))
    assert (crop[0, 0] == 0).all() or (crop[-1, 0] == 0).all()


def test_warp_accepts_a_square_far_larger_than_the_picture():
    assert warp(np.full((20, 20, 3), 255, np.uint8), matrix(1e-6, 0, (50, 50)), 112).shape == (112, 112, 3)
