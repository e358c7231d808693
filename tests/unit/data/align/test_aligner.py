"""From a picture to crops: where landmarks land, which faces are taken, what is no face."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.painted import Dots, dots, landmarks, photograph
from vplface.data.align import TEMPLATE, Aligner, Face


@settings(max_examples=20)
@given(
    st.floats(0.6, 4),
    st.floats(-3.1, 3.1),
    st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6)),
)
def test_the_landmarks_land_on_the_template(scale, angle, place):
    width, height = 640, 480
    points = landmarks(scale, angle, (place[0] * width, place[1] * height))
    faces = Aligner(Dots())(photograph(points, width, height, radius=4 * scale))
    assert len(faces) == 1
    assert faces[0].picture.shape == (112, 112, 3)
    assert faces[0].face.side == pytest.approx(112 * scale, rel=0.02)
    assert np.abs(dots(faces[0].picture) - TEMPLATE).max() < 0.5


def test_another_size_scales_the_template():
    crop = Aligner(Dots(), size=224)(photograph(landmarks(), radius=6))[0].picture
    assert crop.shape == (224, 224, 3)
    assert np.abs(dots(crop) - 2 * TEMPLATE).max() < 0.8


def test_no_face_is_an_empty_list():
    assert Aligner(Dots())(np.zeros((50, 60, 3), np.uint8)) == []


def test_a_face_at_the_border_is_black_beyond_it():
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
def test_what_is_no_rgb_picture_is_refused(picture):
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
def test_which_faces_are_taken(choice, taken):
    known = faces()
    judged = Aligner(Dots(), choice).judge(list(known.values())[::-1], 300, 400)
    assert [face.side for face, _ in judged] == sorted((face.side for face in known.values()), reverse=True)
    verdicts = {name: verdict for name, face in known.items() for other, verdict in judged if other is face}
    assert verdicts.pop("tiny") == "too small"
    assert verdicts.pop("outside") == "outside"
    assert verdicts == {name: "aligned" if name in taken else "not chosen" for name in verdicts}


def test_the_smallest_size_is_that_of_the_square_in_the_photograph():
    face = Face(landmarks(0.5))
    assert face.side == pytest.approx(56)
    assert Aligner(Dots(), min_size=55.9).judge([face], 240, 300)[0][1] == "aligned"
    assert Aligner(Dots(), min_size=56.1).judge([face], 240, 300)[0][1] == "too small"


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="largest, center, all"):
        Aligner(Dots(), "biggest")
    with pytest.raises(ValueError, match="positive"):
        Aligner(Dots(), size=0)


SWAPPED = {"left and right": [1, 0, 2, 4, 3], "eyes and mouth": [3, 4, 2, 0, 1]}


@pytest.mark.parametrize("order", SWAPPED.values(), ids=SWAPPED)
def test_landmarks_in_another_order_are_no_face(order):
    with pytest.raises(ValueError, match="mirrored order; expected left_eye, right_eye"):
        Face(landmarks()[order])


def test_a_profile_is_a_face():
    """Both eyes in one place, by the detector's error even crossed a little."""
    profile = np.array([(60, 50), (58, 50), (80, 70), (62, 90), (61, 90)], float)
    assert 60 < Face(profile).side < 160


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.zeros(10), np.full((5, 2), np.nan), np.ones((5, 2))])
def test_what_is_no_five_points_is_no_face(points):
    with pytest.raises(ValueError, match=r"five landmarks|finite|coincide"):
        Face(points)
