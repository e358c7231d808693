"""``vplface verify``: decisions and mistakes, on real faces where a copy lies beside the repository."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
from vplface.data.align import Aligner
from vplface.data.pictures import decode_whole
from vplface.deploy import faces as module
from vplface.embedder import Embedder
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.provenance import hashes
from vplface.stored_model import ModelCard, save_model

PHOTOS = SHARED / "data" / "lfw_raw_sample"
YUNET = SHARED / "models" / "face_detection_yunet.onnx"
SCORER = SHARED / "models" / "mobilefacenet_foamliu.onnx"


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(module, "YuNet", InTiles)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    save_model(tmp_path / "run", backbone, ModelCard("tiny", 16, {"width": 8}))
    return tmp_path / "run"


def keep_point(model: Path, threshold: float, **changes) -> OperatingPoint:
    protocol = {"flip": "sum", "preprocessing": Embedder.load(model).card.preprocessing.to_dict()}
    weights = model / "model.safetensors"
    point = OperatingPoint(
        threshold, 1e-3, 9e-4, 0.75, protocol, "faces", "2026-01-01T00:00:00+00:00",
        {weights.name: hashes([weights])[str(weights)]},
    )  # fmt: skip
    point = replace(point, **changes)
    point.save(model)
    return point


@pytest.fixture
def pictures(tmp_path):
    """Two aligned faces, a photograph of one face and one of two, the smaller first."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        write(tmp_path / name, coarse.repeat(14, 0).repeat(14, 1))
    write(tmp_path / "one.png", photograph(landmarks()))
    write(tmp_path / "two.png", np.concatenate([photograph(landmarks(1.0)), photograph(landmarks(1.6), radius=9)], 1))
    return tmp_path


def similarity(model: Path, *crops: np.ndarray, flip: str = "sum") -> float:
    a, b = Embedder.load(model)(list(crops), flip)
    return float(a @ b)


def crops(path: Path) -> list[np.ndarray]:
    return [each.picture for each in Aligner(InTiles())(decode_whole(path.read_bytes(), str(path)))]


def test_vplface_verify_decides_at_the_operating_point_of_the_model(model, pictures):
    a, b = (decode_whole((pictures / name).read_bytes(), name) for name in ("a.png", "b.png"))
    expected = similarity(model, a, b)
    for threshold, verdict in ((expected - 0.001, "same person"), (expected + 0.001, "different people")):
        keep_point(model, threshold)
        result = vplface("verify", model, pictures / "a.png", pictures / "b.png")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines() == [
            f"similarity {expected:.4f}: {verdict}",
            f"threshold {threshold:.4f}: FAR 0.001 (measured 0.0009, TAR 0.7500, on faces)",
        ]
        assert result.stderr == ""


def test_vplface_verify_json_states_decision_faces_and_files(model, pictures):
    point = keep_point(model, 1.0)
    result = vplface("verify", model, pictures / "a.png", pictures / "two.png", "--face", "1,2", "--json")
    told = json.loads(result.stdout)
    assert (told["schema"], told["model"], told["same"], told["threshold"]) == (1, str(model), False, 1.0)
    assert told["operating_point"]["tar"] == point.tar
    aligned, large, small = decode_whole((pictures / "a.png").read_bytes(), "a"), *crops(pictures / "two.png")
    assert told["similarity"] == pytest.approx(similarity(model, aligned, small), abs=1e-6)
    assert told["similarity"] != pytest.approx(similarity(model, aligned, large), abs=1e-6)
    first, second = told["pictures"]
    assert first["faces"] == [{"box": None, "score": None}]
    assert (len(second["faces"]), second["taken"], first["taken"]) == (2, 2, 1)
    assert told["protocol"]["flip"] == "sum"
    assert set(told["files"]) == {str(model / name) for name in ("model.safetensors", "model.json")}


def test_vplface_verify_takes_the_largest_of_several_faces_and_lists_all(model, pictures):
    result = vplface("verify", model, pictures / "two.png", pictures / "one.png", "--threshold", 0.5)
    large, (one,) = crops(pictures / "two.png")[0], crops(pictures / "one.png")
    assert f"similarity {similarity(model, large, one):.4f}: same person" in result.stdout
    assert "threshold 0.5000, from the command line" in result.stdout
    (note,) = result.stderr.splitlines()
    assert "two.png shows 2 faces: 1 is " in note
    assert note.endswith("; used: 1; choose another with --face")


def test_vplface_verify_without_an_operating_point_decides_nothing_and_proposes_a_command(model, pictures):
    result = vplface("verify", model, pictures / "a.png", pictures / "a.png")
    assert result.exit_code == 0
    assert result.stdout == "similarity 1.0000: no decision\n"
    assert f"vplface evaluate {model} --data FACES --people PEOPLE --save-operating-point 1e-4" in result.stderr
    told = json.loads(vplface("verify", model, pictures / "a.png", pictures / "a.png", "--json").stdout)
    assert (told["same"], told["threshold"], told["operating_point"]) == (None, None, None)


def test_vplface_verify_refuses_an_operating_point_of_another_protocol_or_model(model, pictures):
    words = ("verify", model, pictures / "a.png", pictures / "b.png")
    point = keep_point(model, 0.3)
    other = vplface(*words, "--flip", "none")
    assert other.exit_code == 1
    assert "its operating point was measured with flip sum, but these embeddings use none" in other.stderr
    keep_point(model, 0.3, protocol={**point.protocol, "flip": "none"})
    assert json.loads(vplface(*words, "--json").stdout)["protocol"]["flip"] == "none"
    changed = vplface(*words, "--color", "bgr")
    assert "its operating point was measured with preprocessing size 112, color rgb" in changed.stderr
    keep_point(model, 0.3, files={"model.safetensors": "0" * 64})
    stale = vplface(*words)
    assert stale.exit_code == 1
    assert "was measured with another model.safetensors" in stale.stderr
    assert vplface(*words, "--threshold", 0.3).exit_code == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_vplface_verify_show_draws_the_pictures(model, pictures, suffix):
    out = pictures / "new" / f"pair{suffix}"
    result = vplface("verify", model, pictures / "a.png", pictures / "two.png", "--threshold", 0.5, "--show", out)
    assert result.exit_code == 0, result.stderr
    assert f"wrote {out}" in result.stdout
    drawn = cv2.imread(str(out))
    assert min(drawn.shape[:2]) > 500
    assert drawn.std() > 20
    refused = vplface("verify", model, pictures / "a.png", pictures / "b.png", "--show", pictures / "pair.txt")
    assert refused.exit_code == 2
    assert "the name must end in .png or .jpg" in refused.stderr


def test_vplface_verify_names_the_mistake(model, pictures, tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    write(tmp_path / "empty.png", np.full((200, 200, 3), 90, np.uint8))
    a = pictures / "a.png"
    for words, status, message in (
        ((model, a, tmp_path / "absent.jpg"), 1, "absent.jpg: No such file or directory"),
        ((model, a, tmp_path / "zero.jpg"), 1, "zero.jpg: the file is empty"),
        ((model, a, tmp_path), 1, "Is a directory"),
        ((model, tmp_path / "empty.png", a), 1, "empty.png: no face found in 200×200 pixels"),
        ((model, a, pictures / "two.png", "--face", "1,3"), 1, "two.png: there is no face 3; it shows 2: 1 is"),
        ((tmp_path / "modle", a, a), 1, "modle: no such folder"),
        ((model, a, a, "--face", "2"), 2, "--face 2: expected the numbers of two faces"),
        ((model, a, a, "--face", "0,1"), 2, "--face 0,1: expected"),
        ((model, a, a, "--threshold", "2"), 2, "threshold"),
        ((model, a), 2, "Missing argument"),
    ):
        result = vplface("verify", *words)
        assert result.exit_code == status, words
        assert message in result.stderr, result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.skipif(
    not (YUNET.is_file() and SCORER.is_file() and PHOTOS.is_dir()),
    reason="no photographs or models beside the repository (shared/data/lfw_raw_sample, shared/models)",
)
def test_vplface_verify_distinguishes_real_people(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.undo()
    shutil.copy(SCORER, tmp_path / "scorer.onnx")
    prepared = ("--color", "rgb", "--mean", ".485,.456,.406", "--std", ".229,.224,.225")
    clinton = sorted((PHOTOS / "Bill_Clinton").glob("*.jpg"))
    words = ("verify", tmp_path / "scorer.onnx", clinton[0], "--detector-model", YUNET, "--threshold", 0.4)
    assert vplface(*words, clinton[1], *prepared).stdout.startswith("similarity 0.7")
    other = next((PHOTOS / "Colin_Powell").glob("*.jpg"))
    assert "different people" in vplface(*words, other, *prepared).stdout
    bare = vplface(*words, other)
    assert bare.exit_code == 1
    assert "--color rgb --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5" in bare.stderr
