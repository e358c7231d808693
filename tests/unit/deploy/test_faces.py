"""Faces of pictures, with painted faces."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from helpers.painted import InTiles, landmarks, photograph, write
from vplface.data.align import Aligner
from vplface.data.pictures import UnreadablePictureError
from vplface.deploy import faces as module
from vplface.deploy.faces import FaceReader, NoFaceError


@pytest.fixture
def read(monkeypatch):
    monkeypatch.setattr(module, "YuNet", InTiles)
    return lambda path, align="auto": FaceReader(112, align)(path)


def group(*scales: float) -> np.ndarray:
    return np.concatenate([photograph(landmarks(scale)) for scale in scales], axis=1)


def test_FaceReader_returns_the_faces_of_a_photograph_largest_first(read, tmp_path):
    write(tmp_path / "group.png", group(1.0, 1.6))
    found = read(tmp_path / "group.png")
    assert found.sha256 == hashlib.sha256((tmp_path / "group.png").read_bytes()).hexdigest()
    assert found.picture.shape == (240, 600, 3)
    large, small = found.faces
    assert large.box[0] > 300 > small.box[0]
    assert large.box[2] > small.box[2]
    expected = Aligner(InTiles())(found.picture)
    for face, aligned in zip(found.faces, expected, strict=True):
        np.testing.assert_array_equal(face.picture, aligned.picture)
    assert found.face() is large
    assert found.face(2) is small
    with pytest.raises(NoFaceError, match=r"group\.png: there is no face 3; it shows 2: 1 is \d+×\d+ at \d+,\d+, 2 is"):
        found.face(3)


def test_FaceReader_takes_a_picture_of_the_model_size_unchanged(read, tmp_path):
    pixels = np.random.default_rng(0).integers(80, 120, (112, 112, 3), np.uint8)  # no colour of a painted face
    write(tmp_path / "face.png", pixels)
    for align in ("auto", "never"):
        (face,) = read(tmp_path / "face.png", align).faces
        assert (face.box, face.score) == (None, None)
        np.testing.assert_array_equal(face.picture, pixels)
    with pytest.raises(NoFaceError, match=r"face\.png: no face found in 112×112 pixels"):
        read(tmp_path / "face.png", "always")


def test_FaceReader_align_never_resizes_without_a_detector(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # without a model in it
    write(tmp_path / "large.png", photograph(landmarks()))
    (face,) = FaceReader(112, "never")(tmp_path / "large.png").faces
    assert face.picture.shape == (112, 112, 3)
    with pytest.raises(module.DataError, match="there is no face detection model"):
        FaceReader(112)(tmp_path / "large.png")


def test_FaceReader_says_why_no_face_is_usable(read, tmp_path):
    write(tmp_path / "empty.png", np.full((200, 200, 3), 90, np.uint8))
    write(tmp_path / "tiny.png", photograph(landmarks(0.13), radius=1.2))
    with pytest.raises(NoFaceError, match=r"empty\.png: no face found in 200×200 pixels; .*--align never"):
        read(tmp_path / "empty.png")
    with pytest.raises(NoFaceError, match=r"tiny\.png: no face of a usable size: the largest of 1 covers 1\d pixels"):
        read(tmp_path / "tiny.png")


def test_FaceReader_names_files_that_are_not_pictures(read, tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    for name, reason in (("zero.jpg", "the file is empty"), ("absent.jpg", "No such file or directory")):
        with pytest.raises(UnreadablePictureError) as caught:
            read(tmp_path / name)
        assert (caught.value.where, caught.value.reason) == (str(tmp_path / name), reason)


def test_FaceReader_refuses_an_unknown_align_mode():
    with pytest.raises(ValueError, match="align must be one of auto, always, never, got 'sometimes'"):
        FaceReader(112, "sometimes")  # type: ignore[arg-type]
