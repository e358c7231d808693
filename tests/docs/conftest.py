"""A folder with everything that the pages speak of, made once: faces, photographs, lists, a model that was trained."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from helpers.pages import SHORT
from helpers.painted import InTiles, landmarks, photograph, write
from vplface.cli.app import app
from vplface.data import align
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.verification_bin import write_verification_bin
from vplface.data.pair_lists import read_pairs
from vplface.deploy import faces as faces_module


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    desk = tmp_path_factory.mktemp("template")
    for name in ("my_faces", "more_faces", "other_faces", "faces", "lfw", "celeba", "known", "visitors", "facescrub"):
        shutil.copytree(faces, desk / name)
    shutil.copytree(faces / "p0", desk / "crowd" / "stranger")
    for number in range(12):  # a tenth of them can be held out
        shutil.copytree(faces / f"p{number}", desk / "my_faces" / f"q{number}")
    (desk / "faces_webface").mkdir()
    for number, picture in enumerate(sorted(faces.glob("*/*.png"))):
        write(desk / "photos" / picture.relative_to(faces), photograph(landmarks(1.0 + 0.01 * number)))
    for name in ("party.jpg", "visitor.jpg"):
        write(desk / name, photograph(landmarks()))
    for number, name in enumerate(["a.jpg", "b.jpg", "ada.jpg", "ada1.jpg", "ada2.jpg", "grace.jpg"]):
        write(desk / name, cv2.imread(str(faces / f"p{number}" / "0.png"))[..., ::-1])
    (desk / "yunet.onnx").touch()
    people = [f"p{number}" for number in range(12)]
    (desk / "people.txt").write_text("\n".join(people) + "\n")
    shutil.copy(desk / "people.txt", desk / "peopleDevTest.txt")
    (desk / "groups.csv").write_text("".join(f"{name},{'ab'[number % 2]}\n" for number, name in enumerate(people)))
    pairs = [f"p{n}/0.png p{n}/1.png 1 {n % 2}\np{n}/0.png p{(n + 2) % 12}/1.png 0 {n % 2}" for n in range(12)]
    (desk / "pairs.txt").write_text("\n".join(pairs) + "\n")
    for name in ("pairsDevTest.txt", "pairsDevTrain.txt"):
        (desk / name).write_text("\n".join(line[:-2] for pair in pairs for line in pair.split("\n")) + "\n")
    folds = [f"p{n}/0.png p{n}/1.png 1 {n}\np{n}/0.png p{n + 1}/1.png 0 {n}" for n in range(10)]
    (desk / "folds.txt").write_text("\n".join(folds) + "\n")
    write_verification_bin(desk / "lfw.bin", ImageFolder(desk / "lfw"), read_pairs(desk / "folds.txt"))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(48, 8)).astype(np.float32) for name in ("gallery", "probes")}
    np.savez(desk / "faces.npz", **arrays)
    np.save(desk / "million.npy", rng.normal(size=(200, 8)).astype(np.float32))

    before = Path.cwd()
    os.chdir(desk)
    try:
        for words in (
            ["train", "folder", "data.train=my_faces", "name=mine", *SHORT, "evaluation.every=2"],
            shlex.split("evaluate runs/mine/best --data faces --people people.txt --save-operating-point 0.1"),
            shlex.split("embed runs/mine/best lfw --out embeddings.npz"),
            shlex.split("export runs/mine/best mine.onnx"),
            shlex.split("data convert my_faces faces_webface/train.rec"),
        ):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
        for name in ("model.onnx", "new.onnx"):
            shutil.copy("mine.onnx", name)
        exported = onnx.load("mine.onnx")
        del exported.metadata_props[:]
        for name in ("other.onnx", "judge.onnx"):
            onnx.save(exported, name)
        for name in ("old", "new"):
            shutil.copytree("runs/mine/best", f"{name}/best")
    finally:
        os.chdir(before)
    return desk


@pytest.fixture
def desk(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, and a detector that knows the faces of the photographs."""
    folder = tmp_path / "desk"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(align, "YuNet", InTiles)
    monkeypatch.setattr(faces_module, "YuNet", InTiles)
    return folder
