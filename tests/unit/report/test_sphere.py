from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vplface.report.record import Sphere
from vplface.report.sphere import RADIUS, SAMPLES, geodesic, pictures, spread, unrolled, viewpoint


def direction(rng: np.random.Generator) -> np.ndarray:
    point = rng.normal(size=3)
    return point / np.linalg.norm(point)


@given(seed=st.integers(0, 2**32 - 1))
def test_geodesic_is_the_great_circle_at_constant_speed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, end = direction(rng), direction(rng)
    arc = geodesic(start, end, 8)
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), 1.0, atol=1e-9)
    np.testing.assert_allclose(arc[[0, -1]], [start, end], atol=1e-9)
    steps = np.arccos(np.clip(np.einsum("kd,kd->k", arc[:-1], arc[1:]), -1, 1))
    np.testing.assert_allclose(steps, np.arccos(start @ end) / 8, atol=1e-6)


def test_geodesic_of_equal_ends_stays_in_place() -> None:
    point = np.array([0.0, 0.6, 0.8])
    np.testing.assert_allclose(geodesic(point, point, 3), np.tile(point, (4, 1)))


@given(seed=st.integers(0, 2**32 - 1))
def test_unrolled_keeps_angles_from_the_centre_and_between_directions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre = direction(rng)
    points = np.stack([direction(rng) for _ in range(5)])
    flat = unrolled(points, centre)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), np.arccos(points @ centre), atol=1e-7)
    tangent = points - (points @ centre)[:, None] * centre
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    bearing = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(bearing @ bearing.T, tangent @ tangent.T, atol=1e-7)


def test_spread_contains_two_thirds_of_a_cloud() -> None:
    rng = np.random.default_rng(0)
    cloud = np.array([0.0, 0.0, 1.0]) + rng.normal(size=(4000, 3)) * (0.12, 0.05, 0.0)
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    outline = spread(cloud, corners=80)
    assert outline is not None
    np.testing.assert_allclose(np.linalg.norm(outline, axis=1), 1.0)
    angle = np.arctan2(cloud[:, 1], cloud[:, 0])
    corner_angle = np.arctan2(outline[:, 1], outline[:, 0])
    order = np.argsort(corner_angle)
    reach = np.interp(angle, corner_angle[order], np.hypot(outline[order, 0], outline[order, 1]), period=2 * np.pi)
    inside = np.hypot(cloud[:, 0], cloud[:, 1]) <= reach
    assert inside.mean() == pytest.approx(1 - np.exp(-(1.5**2) / 2), abs=0.02)


def test_spread_is_none_for_two_points_and_for_a_class_all_over_the_sphere() -> None:
    rng = np.random.default_rng(0)
    assert spread(np.eye(3)[:2]) is None
    assert spread(np.stack([direction(rng) for _ in range(200)])) is None


def test_viewpoint_is_a_rotation_towards_the_prototypes(sphere: Sphere) -> None:
    crowded = replace(sphere, prototypes=np.tile([0.6, 0.0, 0.8], (11, 1)), memory=np.tile([0.6, 0.0, 0.8], (11, 1)))
    view = viewpoint(crowded)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1.0)
    assert view[2] @ [0.6, 0.0, 0.8] > 0.99


def test_pictures_draws_prototypes_at_their_projection(sphere: Sphere) -> None:
    point = pictures(sphere)[0].picture
    view = viewpoint(sphere)
    found = re.findall(
        r'<path class="prototype hue\d( back)?" [^>]*transform="translate\(([-\d.]+) ([-\d.]+)\)"', point
    )
    assert len(found) == len(sphere.prototypes)
    expected = sphere.prototypes @ view.T
    expected = expected[np.argsort(expected[:, 2])]  # the nearer is drawn later
    for (back, x, y), (right, up, towards) in zip(found, expected, strict=True):
        assert (float(x), float(y)) == pytest.approx((RADIUS * right, -RADIUS * up), abs=0.051)
        assert bool(back) == (towards < 0)


def test_pictures_draws_only_memories_that_are_alive(sphere: Sphere) -> None:
    alive = int((sphere.timer > 0).sum())
    assert 0 < alive < len(sphere.timer)
    _, distribution, close = pictures(sphere)
    for kind in ("memory", "drawn", "arc"):
        assert len(re.findall(rf'class="{kind} hue', distribution.picture)) == alive
    assert f"{alive} of {len(sphere.timer)} memories are alive" in str(distribution.note)
    assert close.title == "One class close up"


def test_pictures_shows_nothing_injected_before_the_start(sphere: Sphere) -> None:
    dormant = replace(sphere, timer=np.zeros_like(sphere.timer), memory=np.zeros_like(sphere.memory))
    figures = pictures(dormant)
    assert [figure.title for figure in figures] == ["A class is a point", "A class is a distribution"]
    assert 'class="drawn' not in figures[1].picture


def test_pictures_draws_at_most_SAMPLES_samples(sphere: Sphere) -> None:
    many = replace(sphere, embeddings=np.tile(sphere.embeddings, (5, 1)), labels=np.tile(sphere.labels, 5))
    assert len(re.findall('class="sample hue', pictures(many)[0].picture)) == SAMPLES
