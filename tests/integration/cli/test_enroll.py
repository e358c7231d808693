"""``vplface enroll`` and ``vplface identify``: results and mistakes, on real faces where a copy is present."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.painted import InTiles, landmarks, photograph, write
from helpers.paths import SHARED
from vplface.backbones import build
from vplface.cli.app import app
from vplface.deploy import enrolment
from vplface.deploy import faces as module
from vplface.deploy.gallery_folder import load_gallery
from vplface.embedder import Embedder
from vplface.stored_model import ModelCard, save_model

PHOTOS = SHARED / "data" / "lfw_raw_sample"
YUNET = SHARED / "models" / "face_detection_yunet.onnx"
SCORER = SHARED / "models" / "mobilefacenet_foamliu.onnx"


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(module, "YuNet", InTiles)


def untrained(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    save_model(path, backbone, ModelCard("tiny", 16, {"width": 8}))
    return path


@pytest.fixture
def model(tmp_path):
    return untrained(tmp_path / "run")


@pytest.fixture
def people(tmp_path):
    """A gallery's folder that is not there yet."""
    return tmp_path / "people"


@pytest.fixture
def photos(tmp_path):
    """Three people, one of them with a name that is not ASCII; among the pictures some that cannot be used."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("Ada/1.png", "Ada/below/2.png", "Zoë Ω/1.png", "李小龍/1.png"):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        write(root / name, coarse.repeat(14, 0).repeat(14, 1))
    write(root / "Ada" / "3.png", group())
    write(root / "Ada" / "4.png", np.full((200, 200, 3), 90, np.uint8))
    (root / "李小龍" / "5.jpg").write_bytes(b"")
    return root


def group() -> np.ndarray:
    return np.concatenate([photograph(landmarks(1.0)), photograph(landmarks(1.6), radius=9)], axis=1)


def test_vplface_enroll_adds_a_folder_of_people_and_skips_enrolled_pictures(model, people, photos, monkeypatch):
    monkeypatch.setattr(enrolment, "_BATCH_SIZE", 2)
    monkeypatch.setattr(enrolment, "_SAVE_INTERVAL", 0.0)
    result = vplface("enroll", people, photos, "--model", model)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{people}: enrolled 5 pictures of 3 people; skipped 2\n"
    assert f"skipped {photos}/Ada/4.png (Ada): no face found in 200×200 pixels" in result.stderr
    assert f"skipped {photos}/李小龍/5.jpg (李小龍): the file is empty" in result.stderr
    assert f"note: {photos}/Ada/3.png shows 2 faces: 1 is " in result.stderr
    listed = vplface("enroll", people, "--list").stdout.splitlines()
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    people_listed = [f"Ada  3  {day}", f"Zoë Ω  1  {day}", f"李小龍  1  {day}"]
    assert listed == [*people_listed, f"3 people, 5 pictures; model {model}, flip sum"]
    before = (people / "gallery.safetensors").read_bytes()
    again = vplface("enroll", people, photos)
    assert again.stdout == f"{people}: enrolled 0 pictures of 0 people; 5 were already enrolled; skipped 2\n"
    assert (people / "gallery.safetensors").read_bytes() == before
    embedder = Embedder.load(model)
    stored = load_gallery(people)
    expected = embedder([photos / "Ada" / "1.png"], "sum")[0]
    assert np.abs(stored.embeddings[stored.files.index("1.png")] - expected).max() < 1e-6


def test_vplface_enroll_accepts_any_name_and_a_chosen_face(model, people, photos):
    words = ("enroll", people, "--model", model)
    assert vplface(*words, "--name", "a/b ../c", photos / "Ada" / "1.png", photos / "Zoë Ω").exit_code == 0
    two = photos / "Ada" / "3.png"
    for number, name in ((1, "the large one"), (2, "the small one")):
        assert vplface(*words, "--name", name, two, "--face", number).exit_code == 0
    again = vplface(*words, "--name", "somebody else", two, "--face", 2)
    assert again.exit_code == 1
    assert (
        "this face is already enrolled as 'the small one'; if that is wrong, remove 'the small one' first"
        in again.stderr
    )
    told = json.loads(vplface("enroll", people, "--list", "--json").stdout)
    assert {each["name"]: len(each["pictures"]) for each in told["people"]} == {
        "a/b ../c": 2, "the large one": 1, "the small one": 1,
    }  # fmt: skip
    assert sorted(path.name for path in people.iterdir()) == [".lock", "gallery.safetensors"]


def test_vplface_enroll_json_lists_added_skipped_and_removed(model, people, photos):
    told = json.loads(vplface("enroll", people, photos, "--model", model, "--json").stdout)
    assert (told["schema"], told["gallery"], told["there_already"]) == (1, str(people), 0)
    assert told["added"] == {"Ada": 3, "Zoë Ω": 1, "李小龍": 1}
    assert {each["path"]: each["name"] for each in told["passed_over"]} == {
        f"{photos}/Ada/4.png": "Ada", f"{photos}/李小龍/5.jpg": "李小龍",
    }  # fmt: skip
    (several,) = told["several_faces"]
    assert (several["path"], several["name"], several["taken"]) == (f"{photos}/Ada/3.png", "Ada", 1)
    assert [len(box) for box in several["boxes"]] == [4, 4]
    removed = json.loads(vplface("enroll", people, "--remove", "Ada", "--remove", "李小龍", "--json").stdout)
    assert (removed["removed"], removed["pictures"]) == (["Ada", "李小龍"], 4)


def test_vplface_identify_does_not_find_a_removed_person(model, people, photos):
    vplface("enroll", people, photos, "--model", model)
    picture = photos / "Zoë Ω" / "1.png"
    assert "Zoë Ω 1.0000" in vplface("identify", people, picture).stdout
    result = vplface("enroll", people, "--remove", "Zoë Ω")
    assert result.stdout == f"{people}: removed Zoë Ω, 1 picture; delete backups and copies yourself\n"
    assert "Zoë" not in vplface("identify", people, picture).stdout.split("\n", 1)[1]


def test_vplface_identify_names_every_face_or_reports_it_as_unknown(model, people, photos):
    vplface("enroll", people, "--model", model, "--name", "large", photos / "Ada" / "3.png")
    vplface("enroll", people, "--name", "Zoë Ω", photos / "Zoë Ω" / "1.png")
    out = photos.parent / "who.png"
    two, zoe = photos / "Ada" / "3.png", photos / "Zoë Ω" / "1.png"
    told = json.loads(
        vplface("identify", people, two, zoe, photos / "Ada" / "4.png", photos / "李小龍" / "5.jpg", "--top", 5,
                "--threshold", 0.99999, "--show", out, "--json").stdout
    )  # fmt: skip
    assert (told["protocol"]["search"], told["protocol"]["people"], told["protocol"]["enrolled"]) == ("exact", 2, 2)
    (large, small), (other,) = (picture["faces"] for picture in told["pictures"])
    assert (large["name"], large["known"], large["matches"][0]["similarity"]) == ("large", True, pytest.approx(1))
    assert (small["name"], small["known"]) == (None, False)
    assert other["name"] == "Zoë Ω"
    assert [match["name"] for match in other["matches"]] == ["Zoë Ω", "large"]
    assert other["matches"][0]["file"] == "1.png"
    assert [each["path"] for each in told["without_face"]] == [f"{photos}/Ada/4.png"]
    assert [each["reason"] for each in told["unreadable"]] == ["the file is empty"]
    assert cv2.imread(str(out)).std() > 20

    shown = vplface("identify", people, two, "--top", 1, "--threshold", 0.99999)
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{two}:"
    assert lines[1].endswith("  large 1.0000")
    assert "  unknown (nearest: " in lines[2]
    assert lines[3] == "threshold 1.0000, from the command line"
    undecided = vplface("identify", people, two)
    assert "has no operating point, so no decision is made" in undecided.stderr
    assert "unknown" not in undecided.stdout
    nothing = vplface("identify", people, photos / "Ada" / "4.png", "--threshold", 0.5)
    assert nothing.exit_code == 0
    assert "4.png: no face found" in nothing.stderr


def test_vplface_identify_search_faiss_finds_the_same_as_exact(model, people, photos):
    pytest.importorskip("faiss")
    vplface("enroll", people, photos, "--model", model)
    words = ("identify", people, photos / "李小龍" / "1.png", "--threshold", 0.5)
    exact, coded = (vplface(*words, "--search", search) for search in ("exact", "faiss"))
    assert coded.exit_code == 0, coded.stderr
    assert coded.stdout == exact.stdout
    assert len(list(people.glob("index-*.faiss"))) == 1


def test_vplface_enroll_and_identify_refuse_another_model_and_accept_a_moved_one(model, people, photos, tmp_path):
    vplface("enroll", people, photos, "--model", model)
    other = untrained(tmp_path / "other", seed=1)
    for words in (("enroll", people, photos), ("identify", people, photos / "Ada" / "1.png")):
        refused = vplface(*words, "--model", other)
        assert refused.exit_code == 1
        assert f"{people}: was enrolled with {model}; the model differs" in refused.stderr
    model.rename(tmp_path / "moved")
    gone = vplface("identify", people, photos / "Ada" / "1.png")
    assert gone.exit_code == 1
    assert f"{model}: the gallery's model does not exist any more; give its new path with --model" in gone.stderr
    assert "Ada 1.0000" in vplface("identify", people, photos / "Ada" / "1.png", "--model", tmp_path / "moved").stdout


def test_vplface_enroll_and_identify_name_the_mistake(model, people, photos, tmp_path):
    vplface("enroll", people, photos, "--model", model)
    (tmp_path / "none").mkdir()
    ada = photos / "Ada" / "1.png"
    for words, status, message in (
        (("enroll", people), 2, "give pictures to enrol, or --remove NAME, or --list"),
        (("enroll", people, photos, "--list"), 2, "one of them"),
        (("enroll", people, "--list", "--name", "Ada"), 2, "--name and --face need pictures"),
        (("enroll", tmp_path / "new", photos), 2, "new is a new gallery: give its model with --model"),
        (("enroll", people, ada), 2, "1.png is a picture without the name of a person: give it with --name"),
        (("enroll", people, photos, "--name", "x", "--face", "1"), 2, "--face 1 applies to one picture, but there are"),
        (("enroll", people, ada, "--name", " "), 1, "invalid name ' ': it is empty"),
        (("enroll", people, tmp_path / "none", "--name", "x"), 1, "no pictures in"),
        (("enroll", people, tmp_path / "absent"), 1, "absent: does not exist"),
        (("enroll", people, tmp_path / "absent.jpg", "--name", "x"), 1, "none of the 1 pictures could be enrolled"),
        (("enroll", photos, photos, "--model", model), 1, "not a gallery and not empty"),
        (("enroll", people, "--remove", "Adda"), 1, "nobody is enrolled as 'Adda'; did you mean 'Ada'?"),
        (("enroll", tmp_path / "new", "--remove", "Ada"), 1, "new: there is no gallery; make one with"),
        (("enroll", tmp_path / "new", "--list"), 1, "new: there is no gallery"),
        (("identify", tmp_path / "new", ada), 1, "new: there is no gallery"),
        (("identify", people, tmp_path / "absent.jpg"), 1, "none of the 1 pictures can be read"),
        (("identify", people, ada, "--show", "who.txt"), 2, "the name must end in .png or .jpg"),
    ):
        result = vplface(*words)
        assert result.exit_code == status, (words, result.stderr)
        assert message in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    not (YUNET.is_file() and SCORER.is_file() and PHOTOS.is_dir()),
    reason="no photographs or models beside the repository (shared/data/lfw_raw_sample, shared/models)",
)
def test_vplface_identify_finds_real_people_in_a_group_picture(tmp_path, people, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.undo()
    shutil.copy(SCORER, tmp_path / "scorer.onnx")
    prepared = ("--color", "rgb", "--mean", ".485,.456,.406", "--std", ".229,.224,.225")
    several = [sorted((PHOTOS / name).glob("*.jpg")) for name in ("Bill_Clinton", "Colin_Powell", "Jean_Chretien")]
    for (_, *enrolled), name in zip(several, ("Clinton", "Powell"), strict=False):
        words = (
            "enroll",
            people,
            *enrolled,
            "--name",
            name,
            "--model",
            tmp_path / "scorer.onnx",
            "--detector-model",
            YUNET,
        )
        assert vplface(*words, *prepared).exit_code == 0
    row = np.concatenate([cv2.imread(str(pictures[0])) for pictures in several], axis=1)
    cv2.imwrite(str(tmp_path / "row.png"), row)
    result = vplface("identify", people, tmp_path / "row.png", "--detector-model", YUNET, "--threshold", 0.4, "--json")
    faces = json.loads(result.stdout)["pictures"][0]["faces"]
    assert [face["name"] for face in sorted(faces, key=lambda face: face["box"][0])] == ["Clinton", "Powell", None]


def test_vplface_identify_templates_compares_with_one_template_for_each_person(model, people, photos):
    assert vplface("enroll", people, photos, "--model", model).exit_code == 0
    probe = photos / "Ada" / "1.png"
    answers = {
        kind: json.loads(vplface("identify", people, probe, "--templates", kind, "--json").stdout)
        for kind in ("best", "mean", "weighted")
    }
    stored = load_gallery(people)
    (ada,) = Embedder.load(model)([probe], "sum")
    rows = [row for row, person in enumerate(stored.person) if stored.names[person] == "Ada"]
    for kind, weights in (("mean", np.ones(3)), ("weighted", stored.records.norm[rows])):
        total = weights @ stored.embeddings[rows]
        assert answers[kind]["protocol"]["templates"] == kind
        (found,) = [m for m in answers[kind]["pictures"][0]["faces"][0]["matches"] if m["name"] == "Ada"]
        assert found["similarity"] == pytest.approx(float(total @ ada / np.linalg.norm(total)), abs=1e-5)
        assert found["file"] == "1.png"
    assert answers["best"]["pictures"][0]["faces"][0]["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)
