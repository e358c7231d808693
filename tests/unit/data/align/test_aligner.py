"""Crops of a picture: where the landmarks lie, which faces are chosen, which landmarks are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.painted import Dots, dots, landmarks, photograph
from vplface.data.align import TEMPLATE, Aligner, Face


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.floats(0.6, 4),
    st.floats(-3.1, 3.1),
    st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6)),
)
def test_Aligner_maps_the_landmarks_to_the_template(scale, angle, place):
    width, height = 640, 480
    points = landmarks(scale, angle, (place[0] * width, place[1] * height))
    faces = Aligner(Dots())(photograph(points, width, height, radius=4 * scale))
    assert len(faces) == 1
    assert faces[0].picture.shape == (112, 112, 3)
    assert faces[0].face.side == pytest.approx(112 * scale, rel=0.02)
    assert np.abs(dots(faces[0].picture) - TEMPLATE).max() < 0.5


def test_Aligner_scales_the_template_to_another_crop_size():
    crop = Aligner(Dots(), size=224)(photograph(landmarks(), radius=6))[0].picture
    assert crop.shape == (224, 224, 3)
    assert np.abs(dots(crop) - 2 * TEMPLATE).max() < 0.8


def test_Aligner_returns_an_empty_list_without_a_face():
    assert Aligner(Dots())(np.zeros((50, 60, 3), np.uint8)) == []


def test_Aligner_fills_the_crop_outside_the_picture_with_black():
    crop = Aligner(Dots())(photograph(landmarks(1.5, 0, (40, 120)), 300, 240))[0].picture
    assert (crop[:, :20] == 0).all()
    assert (crop[30:80, 60:90] > 0).any(-1).all()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((50, 60), np.uint8),
        np.zeros((50, 60, 4), np.uint8),
        np.zeros((50, 60, 3)),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_Aligner_refuses_arrays_that_are_not_uint8_RGB_pictures(picture):
    with pytest.raises(ValueError, match=r"uint8 RGB \[h, w, 3\]"):
        Aligner(Dots())(picture)


def faces() -> dict[str, Face]:
    """In a picture of 400 x 300."""
    return {
        "large": Face(landmarks(1.2, 0, (90, 150))),
        "central": Face(landmarks(0.8, 0, (210, 150))),
        "small": Face(landmarks(0.4, 0, (200, 60))),
        "tiny": Face(landmarks(0.1, 0, (200, 149))),
        "outside": Face(landmarks(3.0, 0, (500, 150))),
    }


@pytest.mark.parametrize(
    ("choice", "taken"),
    [("largest", {"large"}), ("center", {"central"}), ("all", {"large", "central", "small"})],
)
def test_Aligner_judge_selects_faces_by_choice_size_and_position(choice, taken):
    known = faces()
    judged = Aligner(Dots(), choice).judge(list(known.values())[::-1], 300, 400)
    assert [face.side for face, _ in judged] == sorted((face.side for face in known.values()), reverse=True)
    verdicts = {name: verdict for name, face in known.items() for other, verdict in judged if other is face}
    assert verdicts.pop("tiny") == "too small"
    assert verdicts.pop("outside") == "outside"
    assert verdicts == {name: "aligned" if name in taken else "not chosen" for name in verdicts}


def test_Aligner_judge_compares_min_size_with_the_side_in_the_photograph():
    face = Face(landmarks(0.5))
    assert face.side == pytest.approx(56)
    assert Aligner(Dots(), min_size=55.9).judge([face], 240, 300)[0][1] == "aligned"
    assert Aligner(Dots(), min_size=56.1).judge([face], 240, 300)[0][1] == "too small"


def test_Aligner_refuses_an_unknown_choice_and_a_size_of_zero():
    with pytest.raises(ValueError, match="largest, center, all"):
        Aligner(Dots(), "biggest")
    with pytest.raises(ValueError, match="positive"):
        Aligner(Dots(), size=0)


SWAPPED = {"left and right": [1, 0, 2, 4, 3], "eyes and mouth": [3, 4, 2, 0, 1]}


@pytest.mark.parametrize("order", SWAPPED.values(), ids=SWAPPED)
def test_Face_refuses_landmarks_in_mirrored_order(order):
    with pytest.raises(ValueError, match="mirrored order; expected left_eye, right_eye"):
        Face(landmarks()[order])


def test_Face_accepts_a_profile_with_both_eyes_in_one_place():
    """Both eyes are in one place, slightly crossed by an error of the detector."""
    profile = np.array([(60, 50), (58, 50), (80, 70), (62, 90), (61, 90)], float)
    assert 60 < Face(profile).side < 160


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.zeros(10), np.full((5, 2), np.nan), np.ones((5, 2))])
def test_Face_refuses_anything_but_five_finite_distinct_points(points):
    with pytest.raises(ValueError, match=r"five landmarks|finite|coincide"):
        Face(points)
