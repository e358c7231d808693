"""The look at the alignment of a set: on faces of five dots whose places are known, generated faces, and real sets."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers import painted
from helpers.paths import SHARED
from vplface.data.align import TEMPLATE, Face, YuNet, align_folder
from vplface.data.align import advice as module
from vplface.data.align.advice import advice, describe, find_detector, warn_if_unaligned, warn_if_unaligned_files
from vplface.data.align.look import FAR, OFF, judge_landmarks, landmarks_of, look, look_at
from vplface.data.align.mean_face import GRID, WINDOW, band_of, half_of_reference, locate, reference
from vplface.data.formats import open_pictures
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError
from vplface_synthetic import SyntheticFaces

MODEL = SHARED / "models" / "face_detection_yunet.onnx"
DATA = SHARED / "data"
real = pytest.mark.skipif(
    not (MODEL.is_file() and (DATA / "lfw_raw_sample").is_dir() and (DATA / "celeba112").is_dir()),
    reason="no photographs, crops or model beside the repository (shared/data, shared/models)",
)


class Listed:
    """A detector that gives the landmarks it was made with, whatever the picture."""

    def __init__(self, *points: np.ndarray) -> None:
        self._points = points

    def __call__(self, picture: np.ndarray) -> list[Face]:
        return [Face(points) for points in self._points]


def dots(side: int = 112, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """A picture with the template, enlarged about its mean and moved, in pixels of 112."""
    points = ((TEMPLATE - TEMPLATE.mean(0)) * scale + TEMPLATE.mean(0) + shift + 0.5) * side / 112 - 0.5
    return painted.photograph(points, side, side, radius=3 * side / 112)


@pytest.mark.parametrize(("side", "shrunk"), [(112, 1), (224, 1), (336, 224 / 336)])
def test_landmarks_are_in_pixels_of_the_picture_as_the_model_sees_it(side, shrunk):
    found = landmarks_of(dots(side), painted.Dots())
    np.testing.assert_allclose(found, TEMPLATE, atol=0.5)


def test_landmarks_of_a_picture_that_is_not_square_are_stretched_with_it():
    picture = dots(112)[:, 8:104]  # 96 wide: x - 8 of 96 becomes (x - 8 + 1/2) · 112/96 - 1/2 of 112
    expected = TEMPLATE.copy()
    expected[:, 0] = (TEMPLATE[:, 0] - 8 + 0.5) * 112 / 96 - 0.5
    np.testing.assert_allclose(landmarks_of(picture, painted.Dots()), expected, atol=0.5)


def test_of_several_faces_the_nearest_to_the_template_counts():
    border = 112 // 5
    found = landmarks_of(np.zeros((112, 112, 3), np.uint8), Listed(TEMPLATE * 0.3, TEMPLATE + border, TEMPLATE * 2))
    np.testing.assert_allclose(found, TEMPLATE, atol=1e-9)


def test_faces_in_their_places_are_aligned_and_measured():
    seen = look(lambda index: dots(), 20, painted.Dots())
    assert (seen.verdict, seen.pictures, seen.faces, seen.size, seen.sizes) == ("aligned", 20, 20, (112, 112), 1)
    assert seen.distance is not None
    assert seen.distance < 0.5
    assert seen.scale == pytest.approx(1, abs=0.02)
    assert not seen.bad
    assert "in 20 pictures the landmarks are 0." in describe(seen)


def test_smaller_faces_are_misplaced_and_their_size_and_place_are_named(tmp_path):
    folder = tmp_path / "my faces"
    folder.mkdir()
    quoted, aligned = f"'{folder}'", f"'{folder}-aligned'"
    seen = look(lambda index: dots(224, 0.5, (0, -8)), 8, painted.Dots())
    assert seen.verdict == "misplaced"
    assert seen.scale == pytest.approx(0.5, abs=0.02)
    assert seen.shift == pytest.approx((0, -8), abs=0.5)
    text = advice(folder, seen, None, Path("yunet.onnx"))
    assert text.startswith(f"{folder}: not aligned: in the 8 pictures looked at (224×224), at 112×112, ")
    assert "0.50 of the size of aligned faces, 8 pixels too high" in text
    assert text.endswith(f": vplface data align {quoted} {aligned} --faces center --detector-model yunet.onnx")


def test_the_same_shift_of_all_faces_counts_where_that_of_one_could_be_the_pose():
    shifted = TEMPLATE + np.array([0, (OFF + FAR) / 2])
    assert judge_landmarks([(112, 112)] * 8, [shifted] * 8).verdict == "misplaced"
    assert judge_landmarks([(112, 112)] * 7, [shifted] * 7).verdict == "aligned"


def test_faces_at_random_places_are_misplaced_though_their_mean_is_not():
    moved = [TEMPLATE + 12 * np.array([np.cos(turn), np.sin(turn)]) for turn in np.arange(0, 6.28, 0.5)]
    assert judge_landmarks([(300, 300)] * len(moved), moved).verdict == "misplaced"


def test_aligned_faces_of_another_shape_are_stretched():
    seen = look(lambda index: dots()[:, 8:104], 20, painted.Dots())
    assert seen.verdict == "stretched"
    assert "(96×112) will be resized to 112×112, which stretches the faces" in advice(Path("faces"), seen)


def test_pictures_without_faces_are_not_judged():
    seen = look(lambda index: np.zeros((105, 90, 3), np.uint8), 20, painted.Dots())
    assert (seen.verdict, seen.faces, seen.bad) == ("no faces", 0, False)
    assert advice(Path("drawings"), seen) == ""


def test_unreadable_pictures_are_passed_over():
    def read(index):
        if index % 2:
            raise UnreadablePictureError("here", "damaged")
        return dots()

    assert look(read, 20, painted.Dots()).pictures == 10

    def none(index):
        raise UnreadablePictureError("here", "damaged")

    assert look(none, 20, painted.Dots()).verdict == "unknown"
    assert look(none, 20, None).verdict == "unknown"


def test_the_reference_is_the_mean_that_its_table_was_made_of():
    mean = np.zeros((GRID, GRID), np.float32)
    mean[WINDOW] = reference()
    coarse = reference().reshape(18, 2, 18, 2).mean((1, 3))[:, :9]
    np.testing.assert_allclose(half_of_reference(mean), 100 * coarse / np.abs(coarse).max(), atol=0.6)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, (0, 0)), (0.6, (10, -6)), (1.25, (-4, 4))])
def test_a_face_is_located_at_its_size_and_place(scale, shift):
    rows, columns = WINDOW
    middle = np.array([(columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2])
    place = middle + np.array(shift) / 2
    matrix = np.array([[scale, 0, place[0] - 18 * scale], [0, scale, place[1] - 18 * scale]])
    rng = np.random.default_rng(0)
    bands = [
        cv2.warpAffine(reference(), matrix, (GRID, GRID)) + rng.normal(0, 0.3, (GRID, GRID)).astype(np.float32)
        for _ in range(16)
    ]
    face = locate(bands)
    assert face.correlation > 0.85
    assert face.scale == pytest.approx(scale, rel=0.06)
    assert face.shift == pytest.approx(shift, abs=2.1)
    assert (face.in_place > 0.85) == (scale == 1)


@pytest.fixture(scope="module")
def generated():
    faces = SyntheticFaces(identities=16, pictures=1, seed=11)
    return [faces.picture(index) for index in range(16)]


def test_generated_faces_are_aligned_by_their_mean(generated):
    seen = look(generated.__getitem__, 16, None)
    assert (seen.verdict, seen.means, seen.faces) == ("aligned", "mean face", None)
    assert "shows a face in its place" in describe(seen)


def mean_faces(scale: float) -> list[np.ndarray]:
    """Sixteen noisy pictures of the reference at some size, 224 pixels a side."""
    rng = np.random.default_rng(0)
    side = round(144 * scale)
    face = 90 * cv2.resize(reference(), (side, side))
    pictures = []
    for _ in range(16):
        picture = rng.normal(128, 10, (224, 224))
        picture[120 - side // 2 :, 112 - side // 2 :][:side, :side] += face
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8)[..., None].repeat(3, 2))
    return pictures


def test_faces_of_another_size_are_misplaced_by_their_mean():
    assert look(mean_faces(1).__getitem__, 16, None).verdict == "aligned"
    seen = look(mean_faces(0.6).__getitem__, 16, None)
    assert seen.verdict == "misplaced"
    assert seen.scale == pytest.approx(0.6, rel=0.1)
    text = advice(Path("set.rec"), seen)
    assert "on average over the 16 pictures looked at (224×224) the faces are 0." in text
    assert "vplface data convert set.rec set-pictures && vplface data align set-pictures set-pictures-aligned" in text


def test_too_few_generated_faces_have_no_mean_to_judge_by(generated):
    assert look(generated.__getitem__, 15, None).verdict == "unknown"


def test_square_drawings_are_never_warned_about_and_others_as_what_they_are():
    rng = np.random.default_rng(0)

    def drawing(width):
        picture = np.full((105, width, 3), 255, np.uint8)
        cv2.polylines(picture, [rng.integers(10, 95, (5, 2)).astype(np.int32)], False, (0, 0, 0), 3)
        return picture

    seen = look(lambda index: drawing(105), 48, None)
    assert seen.verdict == "unknown"
    assert describe(seen).startswith("alignment: unknown")
    seen = look(lambda index: drawing(105 + index), 48, None)
    assert seen.verdict == "stretched"
    assert "which stretches what they show. If they show faces, align them: " in advice(Path("x"), seen)


@pytest.fixture
def a_set(tmp_path):
    """A folder of small faces, and a list of them with a split."""
    root = tmp_path / "faces"
    for index, picture in enumerate(mean_faces(0.6)):
        (root / f"p{index % 4}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"p{index % 4}" / f"{index}.png"), picture)
    with (tmp_path / "faces.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        rows.writerows((path.relative_to(tmp_path), path.parent.name, "train") for path in sorted(root.rglob("*.png")))
    return root


def test_a_set_is_warned_about_once(a_set, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert warn_if_unaligned(a_set, open_pictures(a_set)).bad
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("warning: ") == 1
    assert f"vplface data align {a_set} {a_set}-aligned --faces center --detector-model" in written.err
    assert "opencv_zoo" in written.err


def test_the_command_names_the_split(a_set, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listed = a_set.with_suffix(".csv")
    warn_if_unaligned(listed, open_pictures(listed, "train"), "train")
    assert f"vplface data convert {listed} {a_set}-pictures --split train && " in capsys.readouterr().err


def test_a_detector_that_is_named_must_exist_and_one_that_is_not_need_not_work(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no-file"):
        find_detector(tmp_path / "no-file.onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_detector() is None
    (tmp_path / "vplface").mkdir()
    (tmp_path / "vplface" / "face_detection_yunet.onnx").write_bytes(b"no network")
    monkeypatch.setattr("vplface.data.align.yunet._survives", lambda data: False)
    assert find_detector() is None


def test_files_are_looked_at_by_their_folder(capsys, monkeypatch):
    monkeypatch.setattr(module, "find_detector", lambda model: painted.Dots())
    assert warn_if_unaligned_files(Path("some folder"), lambda index: dots(300, 0.3), 1).bad
    assert "warning: some folder: not aligned: in the picture looked at (300×300)" in capsys.readouterr().err


@real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lfw112", "celeba112"])
@pytest.mark.parametrize("detector", [True, False])
def test_real_aligned_sets_are_not_warned_about(name, detector):
    assert look_at(open_pictures(DATA / name), find_detector(MODEL) if detector else None).verdict == "aligned"


@real
@pytest.mark.slow
def test_the_command_mends_real_photographs(tmp_path):
    detector = find_detector(MODEL)
    photos = DATA / "lfw_raw_sample"
    for means in (detector, None):
        seen = look_at(open_pictures(photos), means)
        assert seen.verdict == "misplaced"
        assert seen.scale == pytest.approx(0.5, abs=0.06)
    align_folder(photos, tmp_path / "aligned", YuNet(MODEL), choice="center")
    for means in (detector, None):
        assert look_at(open_pictures(tmp_path / "aligned"), means).verdict == "aligned"


def test_one_band_of_an_empty_picture_is_empty():
    assert np.abs(band_of(np.full((50, 70, 3), 127, np.uint8))).max() < 1e-4
