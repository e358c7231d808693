"""What the tabs do, without a page: compare, enrol, remove and search, and the markup of their results."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.painted import InTiles, landmarks, photograph, write
from vplface.backbones import build
from vplface.data.pictures import UnreadablePictureError
from vplface.demo import fragments
from vplface.demo.fragments import PhotographView
from vplface.demo.recogniser import MAX_NAME_LENGTH, Recogniser
from vplface.deploy import faces as module
from vplface.deploy.decision import Threshold
from vplface.deploy.faces import FaceReader, NoFaceError
from vplface.embedder import Embedder
from vplface.errors import DataError
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.provenance import hashes
from vplface.stored_model import ModelCard, save_model

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{this}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    folder = tmp_path_factory.mktemp("run")
    save_model(folder, backbone, ModelCard("tiny", 16, {"width": 8}))
    return folder


def recogniser(run: Path, gallery: Path, threshold: float | None = None) -> Recogniser:
    return Recogniser.of(run, Embedder.load(run), FaceReader(), gallery, threshold)


@pytest.fixture
def desk(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "YuNet", InTiles)
    return recogniser(run, tmp_path / "gallery", 0.9999)


@pytest.fixture
def pictures(tmp_path):
    """Two aligned faces, a photograph of two faces, one of none, and no picture."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        write(tmp_path / name, rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(14, 0).repeat(14, 1))
    two = np.concatenate([photograph(landmarks(1.0)), photograph(landmarks(1.6), radius=9)], 1)
    write(tmp_path / "two.png", two)
    write(tmp_path / "none.png", np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    return {Path(file.name): file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}


def read(desk: Recogniser, pictures: dict[Path, bytes], name: str):
    return desk.read(pictures[Path(name)], Path(name))


def test_Recogniser_similarity_is_the_cosine_of_the_embeddings(desk, run, pictures):
    a, b = (read(desk, pictures, name).face() for name in ("a.png", "b.png"))
    x, y = Embedder.load(run)([a.picture, b.picture], "sum")
    assert desk.similarity(a, b) == pytest.approx(float(x @ y), abs=1e-6)
    assert desk.similarity(a, a) == pytest.approx(1, abs=1e-6)


def test_Recogniser_enrols_searches_and_removes_people(desk, pictures):
    assert desk.people() == {}
    with pytest.raises(DataError, match="nobody is enrolled yet"):
        desk.search(read(desk, pictures, "a.png"))
    done = desk.enrol("Ada", {path: pictures[path] for path in map(Path, ("a.png", "two.png", "none.png", "text.jpg"))})
    assert done.added == {"Ada": 2}
    assert {passed.path.name for passed in done.skipped} == {"none.png", "text.jpg"}
    assert [(each.path.name, each.taken) for each in done.several] == [("two.png", 1)]
    assert desk.enrol("Ada", {Path("a.png"): pictures[Path("a.png")]}).already_enrolled == 1
    desk.enrol("Bob", {Path("b.png"): pictures[Path("b.png")]})
    assert desk.people() == {"Ada": 2, "Bob": 1}
    faces, count = desk.search(read(desk, pictures, "two.png"))
    assert count == 3
    assert [len(matches) for matches in faces] == [2, 2]
    assert (faces[0][0].name, faces[0][0].similarity) == ("Ada", pytest.approx(1, abs=1e-6))
    assert desk.remove("Ada") == 2
    assert desk.people() == {"Bob": 1}
    for file in desk.gallery.rglob("*"):
        assert b"Ada" not in file.read_bytes()
        assert b"two.png" not in file.read_bytes()
    with pytest.raises(DataError, match="nobody is enrolled as 'Ada'"):
        desk.remove("Ada")


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "x" * (MAX_NAME_LENGTH + 1)])
def test_Recogniser_enrol_refuses_invalid_names(desk, pictures, name):
    with pytest.raises(DataError, match=r"invalid name|characters; give"):
        desk.enrol(name, {Path("a.png"): pictures[Path("a.png")]})
    assert desk.people() == {}


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "~", "x" * MAX_NAME_LENGTH, HOSTILE])
def test_Recogniser_enrol_never_uses_a_name_as_a_path(desk, pictures, tmp_path, name):
    before = sorted(tmp_path.iterdir())
    desk.enrol(name, {Path("a.png"): pictures[Path("a.png")]})
    assert desk.people() == {name: 1}
    assert sorted(tmp_path.iterdir()) == sorted([*before, desk.gallery])
    assert {file.name for file in desk.gallery.iterdir()} <= {"gallery.safetensors", ".lock", ".unfinished"}


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_Recogniser_read_judges_pictures_by_their_bytes(desk, pictures):
    with pytest.raises(UnreadablePictureError, match=r"huge\.png: too large: 60000x50000"):
        desk.read(png_claiming(60_000, 50_000), Path("huge.png"))
    with pytest.raises(UnreadablePictureError, match="not a jpg, png, webp or bmp file"):
        desk.read(b"GIF89a", Path("a.png"))
    with pytest.raises(NoFaceError, match="no face found"):
        read(desk, pictures, "none.png")
    assert len(desk.read(pictures[Path("two.png")], Path("two.txt")).faces) == 2


def test_Recogniser_of_refuses_the_gallery_of_another_model(run, desk, pictures, tmp_path):
    desk.enrol("Ada", {Path("a.png"): pictures[Path("a.png")]})
    torch.manual_seed(1)
    other = tmp_path / "other"
    save_model(other, build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    with pytest.raises(DataError, match="the model differs"):
        recogniser(other, desk.gallery)
    with pytest.raises(DataError, match="not a gallery and not empty"):
        recogniser(run, run)


def test_Recogniser_of_takes_threshold_and_flip_from_the_operating_point(run, tmp_path):
    bare = recogniser(run, tmp_path / "gallery")
    assert bare.threshold is None
    weights = run / "model.safetensors"
    point = OperatingPoint(
        0.4, 1e-3, 9e-4, 0.75, {"flip": "none"}, "faces", "2026-01-01T00:00:00+00:00",
        {weights.name: hashes([weights])[str(weights)]},
    )  # fmt: skip
    path = point.save(run)
    try:
        measured = recogniser(run, tmp_path / "gallery")
    finally:
        path.unlink()
    assert measured.threshold == Threshold(0.4, point)
    assert (bare.fingerprint.flip, measured.fingerprint.flip) == ("sum", "none")


def test_verdict_states_the_threshold_and_its_error_rates(run):
    point = OperatingPoint(0.4, 1e-3, 9e-4, 0.75, {}, "faces", "2026-01-01T00:00:00+00:00", {})
    for similarity, word in ((0.4, "same person"), (0.3999, "different people")):
        told = fragments.verdict(similarity, Threshold(0.4, point), run)
        assert f"{similarity:.4f}" in told
        assert word in told
        assert "threshold 0.4000: FAR 0.001 (measured 0.0009, TAR 0.7500, on faces)" in told
    bare = fragments.verdict(-0.25, None, run)
    assert "−0.2500" in bare
    assert "no decision" in bare
    assert f"vplface evaluate {run} --data FACES --people PEOPLE --save-operating-point 1e-4" in bare


def test_search_result_names_known_faces_and_marks_others_unknown(desk, pictures):
    desk.enrol("Ada", {Path("two.png"): pictures[Path("two.png")]})
    photograph = read(desk, pictures, "two.png")
    faces, count = desk.search(photograph)
    told = fragments.search_result(PhotographView.of(photograph), faces, desk.threshold, count, desk.model)
    assert told.count(">Ada</b>") == told.count(">unknown</b>") == 2  # in the picture, and below it
    assert "similarity 1.0000" in told
    assert "nearest: Ada 0." in told
    undecided = fragments.search_result(PhotographView.of(photograph), faces, None, count, desk.model)
    assert undecided.count('<b class="open">no decision</b>') == 2
    assert ">Ada 1.00</b>" in undecided
    assert "has no operating point" in undecided
    point = OperatingPoint(0.4, 0.5, 0.5, 0.75, {}, "faces", "2026-01-01T00:00:00+00:00", {})
    crowded = fragments.search_result(PhotographView.of(photograph), faces, Threshold(0.4, point), 2, desk.model)
    assert "with 2 enrolled pictures up to 75 % of strangers are given a name" in crowded


def test_compared_photograph_says_which_face_is_compared(desk, pictures):
    shown = PhotographView.of(read(desk, pictures, "two.png"))
    assert "face 1 of 2, " in fragments.compared_photograph(shown, 1)
    assert "face 2 of 2, " in fragments.compared_photograph(shown, 2)
    assert "an aligned face, taken as it is" in fragments.compared_photograph(
        PhotographView.of(read(desk, pictures, "a.png")), 1
    )


def test_fragments_escape_names_and_file_names(desk, pictures):
    photograph = replace(read(desk, pictures, "two.png"), path=Path(HOSTILE.replace("/", "_")))
    shown = PhotographView.of(photograph)
    done = desk.enrol(HOSTILE, {photograph.path: pictures[Path("two.png")]})
    faces, count = desk.search(photograph)
    for markup in (
        fragments.compared_photograph(shown, 1),
        fragments.search_result(shown, faces, desk.threshold, count, desk.model),
        fragments.pending({photograph.path: shown, Path("<b>"): "<i>no face</i>"}),
        fragments.enrolled(HOSTILE, done),
        fragments.people({HOSTILE: 1}),
        fragments.removed(HOSTILE, 1),
        fragments.note(HOSTILE),
    ):
        assert "<img src=x" not in markup
        assert "<i>no" not in markup
        assert "onerror" in markup
