"""Quality gates of ``vplface verify``, ``identify`` and ``enroll``: faces that are too poor to decide by."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.pages import ROOT
from vplface.backbones import build
from vplface.cli.app import app
from vplface.data.pictures import Preprocessing
from vplface.deploy.gallery_folder import load_gallery
from vplface.embedder import Embedder
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.provenance import hashes
from vplface.evaluation.quality import OnnxQuality, QualityGate
from vplface.stored_model import ModelCard, save_model


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def answer(*words):
    result = vplface(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with a threshold, pictures of two people, and the norms of their embeddings."""
    root = tmp_path_factory.mktemp("gate")
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    save_model(root / "run", backbone, ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for name in ("Ada/1.png", "Ada/2.png", "Bob/1.png"):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(root / "photos" / name), coarse.repeat(14, 0).repeat(14, 1))
    return root


@pytest.fixture
def norms(place):
    embedder = Embedder.load(place / "run")
    names = ["Ada/1.png", "Ada/2.png", "Bob/1.png"]
    raw = embedder([place / "photos" / name for name in names], "sum", unit=False)
    return dict(zip(names, np.linalg.norm(raw, axis=1).tolist(), strict=True))


def keep_point(place, gate=None, threshold=-1.0):
    protocol = {"flip": "sum", "preprocessing": Embedder.load(place / "run").card.preprocessing.to_dict()}
    weights = place / "run" / "model.safetensors"
    digest = {weights.name: hashes([weights])[str(weights)]}
    quality = None if gate is None else gate.to_json()
    point = OperatingPoint(threshold, 1e-3, 9e-4, 0.75, protocol, "faces", "2026-01-01T00:00:00+00:00", digest)
    replace(point, quality=quality).save(place / "run")


def gate_at(least, score="norm", described=None):
    return QualityGate(score, least, 0.1, 0.02, 0.05, "discard=0.1", described or {})


def test_vplface_verify_is_too_poor_to_decide_below_the_stored_gate(place, norms):
    poor, good = sorted(("Ada/1.png", "Bob/1.png"), key=norms.get)
    least = (norms[poor] + norms[good]) / 2
    pair = ["verify", place / "run", place / "photos" / good, place / "photos" / poor]
    keep_point(place, gate_at(least))
    found = answer(*pair)
    assert (found["same"], found["decision"]) == (None, "too poor")
    assert found["pictures"][0]["quality"] == {
        "score": "norm", "value": pytest.approx(norms[good], rel=1e-5), "least": least, "too_poor": False,
    }  # fmt: skip
    assert found["pictures"][1]["quality"]["too_poor"]
    text = vplface(*pair).output.replace("\n", " ")
    assert "too poor to decide" in text
    assert f"quality (norm) {norms[poor]:.4g}, needs {least:.4g}: too poor" in text
    # the similarity is that of a decision, which is made if the gate is lowered or switched off
    for way in (["--quality", "none"], ["--min-quality", norms[poor] * 0.9]):
        open_gate = answer(*pair, *way)
        assert (open_gate["same"], open_gate["decision"]) == (True, "same")
        assert open_gate["similarity"] == pytest.approx(found["similarity"], abs=1e-6)
    # a threshold on the command line replaces the operating point, and the gate with it
    assert answer(*pair, "--threshold", "1")["decision"] == "different"
    assert answer(*pair, "--threshold", "1", "--min-quality", least)["decision"] == "too poor"


def test_vplface_verify_takes_a_picture_twice(place, norms):
    keep_point(place, gate_at(norms["Ada/1.png"] * 0.5))
    path = place / "photos" / "Ada/1.png"
    assert answer("verify", place / "run", path, path)["decision"] == "same"


def test_vplface_enroll_and_identify_turn_poor_faces_away(place, tmp_path, norms):
    order = sorted(norms, key=norms.get)
    keep_point(place, gate_at((norms[order[0]] + norms[order[1]]) / 2))
    gallery = tmp_path / "people"
    done = answer("enroll", gallery, place / "photos", "--model", place / "run")
    assert sum(done["added"].values()) == 2
    (skipped,) = done["passed_over"]
    assert skipped["path"].endswith(order[0])
    assert "too poor: quality (norm)" in skipped["reason"]
    kept = load_gallery(gallery)
    assert sorted(kept.records.quality.tolist()) == pytest.approx([norms[name] for name in order[1:]], rel=1e-5)
    found = answer("identify", gallery, *(place / "photos" / name for name in order))
    faces = [picture["faces"][0] for picture in found["pictures"]]
    assert [face["decision"] for face in faces] == ["too poor", "known", "known"]
    assert (faces[0]["name"], faces[0]["known"]) == (None, None)
    assert faces[0]["quality"]["too_poor"]
    shown = vplface("identify", gallery, place / "photos" / order[0]).output
    assert "too poor to decide: quality (norm)" in shown
    answer("enroll", gallery, place / "photos", "--quality", "none")
    assert np.isnan(load_gallery(gallery).records.quality).sum() == 1


def test_vplface_verify_by_the_stored_direction_of_recognisability(place):
    pair = ["verify", place / "run", place / "photos" / "Ada/1.png", place / "photos" / "Bob/1.png"]
    first = Embedder.load(place / "run")([pair[2]], "sum")[0].astype(float)
    described = {"direction": (first / np.linalg.norm(first)).round(6).tolist()}
    keep_point(place, gate_at(1e-3, "recognisability", described))
    found = answer(*pair)
    values = [picture["quality"]["value"] for picture in found["pictures"]]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[1] == pytest.approx(min(1 - found["similarity"], 1), abs=1e-5)
    assert found["decision"] == "too poor"
    keep_point(place)
    result = vplface(*pair, "--quality", "recognisability")
    assert result.exit_code == 2
    assert "which is stored" in result.output


def test_vplface_verify_by_a_stored_onnx_model(place, tmp_path):
    path = tmp_path / "sharpness.onnx"
    subprocess.run([sys.executable, ROOT / "examples" / "sharpness.py", path], check=True)
    pair = ["verify", place / "run", place / "photos" / "Ada/1.png", place / "photos" / "Bob/1.png"]
    score = OnnxQuality(path, Preprocessing())
    keep_point(place, gate_at(1e9, str(path), score.describe()))
    found = answer(*pair)
    assert found["decision"] == "too poor"
    picture = cv2.imread(str(pair[2]))[..., ::-1].mean(axis=2) / 127.5 - 1
    edges = cv2.filter2D(picture, -1, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float))[1:-1, 1:-1]
    assert found["pictures"][0]["quality"]["value"] == pytest.approx((edges**2).mean(), rel=1e-4)
    # a file that has moved is known by its hash, so that the least quality still applies
    moved = path.rename(tmp_path / "moved.onnx")
    gone = vplface(*pair)
    assert gone.exit_code == 1
    assert "give its path with --quality" in " ".join(gone.output.split())
    assert answer(*pair, "--quality", moved)["decision"] == "too poor"
    assert answer(*pair, "--quality", f"{moved}:mean=0.4")["pictures"][0]["quality"]["least"] is None
    shutil.copy(moved, path)
    keep_point(place, gate_at(0.0, str(path), {**score.describe(), "sha256": "0" * 64}))
    assert "is another file than the one that the gate" in " ".join(vplface(*pair).output.split())


def test_vplface_verify_refuses_a_quality_that_contradicts_itself(place):
    pair = ["verify", place / "run", place / "photos" / "Ada/1.png", place / "photos" / "Bob/1.png"]
    for words in (["--quality", "none", "--min-quality", "1"], ["--quality", "norm,recognisability"]):
        assert vplface(*pair, *words).exit_code == 2
