"""``vplface data align``: outcomes, JSON output and invalid options."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from helpers.pages import ROOT
from helpers.painted import landmarks, photograph, write
from vplface.backbones import build
from vplface.cli.data_align import align
from vplface.data.align import Face
from vplface.data.align.record import Record, read_records, write_records
from vplface.data.pictures import Preprocessing
from vplface.errors import DataError, UsageError
from vplface.evaluation.quality import OnnxQuality
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(align)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def photos(tmp_path):
    """Three pictures with a face, one with two, one without, one unreadable; and the landmarks."""
    records = []
    for name, scores in {"a/1.png": [0.9], "a/2.png": [0.8, 0.3], "b/1.png": [0.7], "b/2.png": []}.items():
        write(tmp_path / "photos" / name, photograph(landmarks()))
        faces = [Face(landmarks(1.5 - 0.4 * place), score) for place, score in enumerate(scores)]
        records += [Record(name, "", len(faces), face) for face in faces] or [Record(name, "no face")]
    (tmp_path / "photos" / "b" / "3.jpg").write_bytes(b"no picture")
    write_records(tmp_path / "points.csv", records)
    return tmp_path / "photos"


def test_vplface_data_align_reports_every_outcome_and_keeps_earlier_crops(photos, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = run(photos, tmp_path / "faces", "--landmarks", tmp_path / "points.csv", "--workers", 0, "--sheet", sheet)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:2] == ["b/2.png: no face", "b/3.jpg: unreadable (not a jpg, png, webp or bmp file)"]
    assert lines[2].startswith("3 crops of 5 pictures: 3 aligned, 1 no face, 1 unreadable; ")
    assert lines[3] == "1 pictures show several faces; taken: largest"
    assert f"wrote {sheet}" in lines
    assert sheet.is_file()
    again = run(photos, tmp_path / "faces", "--landmarks", tmp_path / "points.csv", "--workers", 0)
    assert "3 crops of 5 pictures, 3 of them from an earlier run" in again.stdout


def test_vplface_data_align_json_states_protocol_and_counts(photos, tmp_path):
    target = tmp_path / "faces"
    result = run(photos, target, "--landmarks", tmp_path / "points.csv", "--workers", 0, "--faces", "all", "--json")
    report = json.loads(result.stdout)
    assert report.pop("pictures_per_second") > 0
    assert report == {
        "schema": 1,
        "source": str(photos),
        "target": str(target),
        "protocol": {
            "schema": 1, "found_by": "landmarks in points.csv, scores from 0", "faces": "all", "size": 112,
            "min_size": 16, "format": "jpg", "quality": 95,
        },
        "pictures": 5,
        "aligned": 3,
        "crops": 4,
        "several_faces": 1,
        "outcomes": {"aligned": 3, "no face": 1, "unreadable": 1},
        "kept": 0,
        "other_files": {},
        "left_out": {"kinds": {}, "irregular": [], "people": []},
        "files": {
            str(target / name): hashlib.sha256((target / name).read_bytes()).hexdigest()
            for name in ("align.csv", "align.json")
        },
    }  # fmt: skip


def test_vplface_data_align_min_score_skips_faces_of_a_lower_score(photos, tmp_path):
    arguments = ["--landmarks", tmp_path / "points.csv", "--workers", 0, "--min-score", 0.75]
    assert "2 crops of 5 pictures: 2 aligned, 2 no face" in run(photos, tmp_path / "faces", *arguments).stdout


def test_vplface_data_align_fails_with_reasons_if_no_picture_is_aligned(photos, tmp_path):
    arguments = ["--landmarks", tmp_path / "points.csv", "--workers", 0, "--min-size", 999]
    with pytest.raises(DataError, match=r"none of 5 pictures .*\(3 too small, 1 no face, 1 unreadable\); .*align.csv"):
        run(photos, tmp_path / "faces", *arguments)
    assert "pixels a side, needs 999" in (tmp_path / "faces" / "align.csv").read_text()


def test_vplface_data_align_refuses_invalid_options(photos, tmp_path):
    target = tmp_path / "faces"
    with pytest.raises(UsageError, match="give only one of them"):
        run(photos, target, "--landmarks", tmp_path / "points.csv", "--detector-model", "x.onnx")
    with pytest.raises(UsageError, match=r"sheet\.gif: the name must end in"):
        run(photos, target, "--sheet", "sheet.gif")
    with pytest.raises(DataError, match=r"absent\.onnx: there is no face detection model"):
        run(photos, target, "--detector-model", "absent.onnx")
    with pytest.raises(DataError, match=r"phtos: no such folder"):
        run(photos.with_name("phtos"), target, "--detector-model", "absent.onnx")
    with pytest.raises(DataError, match=r"typo\.csv: cannot be read"):
        run(photos, target, "--landmarks", "typo.csv")
    for wrong in (["--faces", "biggest"], ["--format", "gif"], ["--quality", "0"], ["--min-scor", "1"]):
        assert run(photos, target, *wrong).exit_code == 2
    assert not target.exists()


def test_vplface_data_align_help_shows_an_example():
    text = " ".join(run("--help").stdout.split())
    assert "Example:" in text
    assert np.all([option in text for option in ("--detector-model", "--landmarks", "--faces", "--sheet", "--json")])


def sharpness(path):
    subprocess.run([sys.executable, ROOT / "examples" / "sharpness.py", path], check=True)
    return path


def test_vplface_data_align_leaves_out_faces_that_are_too_poor(photos, tmp_path):
    # b/1.png is blurred, and so less sharp than the others
    picture = cv2.imread(str(photos / "b/1.png"))
    cv2.imwrite(str(photos / "b/1.png"), cv2.GaussianBlur(picture, (0, 0), 4))
    model = sharpness(tmp_path / "sharpness.onnx")
    plain = tmp_path / "plain"
    given = ["--landmarks", tmp_path / "points.csv", "--workers", 0, "--format", "png"]
    run(photos, plain, *given)
    crops = [str(plain / name) for name in ("a/1.png", "a/2.png", "b/1.png")]
    qualities = OnnxQuality(model, Preprocessing()).of_pictures(
        np.stack([cv2.imread(each)[..., ::-1] for each in crops])
    )
    assert qualities.argmin() == 2
    least = float(np.sort(qualities)[:2].mean())
    gate = ["--quality-score", model, "--min-quality", least]
    for _ in range(2):  # a repetition judges it again, with the same result
        result = run(photos, tmp_path / "faces", *given, *gate)
        assert "2 crops of 5 pictures" in result.stdout
        assert "1 too poor" in result.stdout
        assert f"b/1.png: too poor (quality ({model}) {qualities[2]:.4g}, needs {least:.4g})" in result.stdout
        assert sorted(path.name for path in (tmp_path / "faces").rglob("*.png")) == ["1.png", "2.png"]
    rows = read_records(tmp_path / "faces" / "align.csv")
    assert [record.outcome for record in rows if record.name == "b/1.png"] == ["too poor"]
    with pytest.raises(DataError, match="was aligned with other settings"):
        run(photos, tmp_path / "faces", *given, *gate[:3], least / 2)


def test_vplface_data_align_by_the_gate_of_a_model(photos, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "run", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    given = ["--landmarks", tmp_path / "points.csv", "--workers", 0]
    with pytest.raises(DataError, match="its operating point has no quality gate"):
        run(photos, tmp_path / "faces", *given, "--model", tmp_path / "run", "--quality-score", "norm")
    with pytest.raises(DataError, match="none of 5 pictures could be aligned"):
        run(photos, tmp_path / "faces", *given, "--model", tmp_path / "run", "--min-quality", 1e9)
    result = run(photos, tmp_path / "all", *given, "--model", tmp_path / "run", "--min-quality", 0)
    assert "3 crops of 5 pictures" in result.stdout
    with pytest.raises(UsageError, match="--size 96: the gate's model takes 112"):
        run(photos, tmp_path / "small", *given, "--model", tmp_path / "run", "--min-quality", 0, "--size", 96)
    for words in (["--min-quality", 1], ["--quality-score", "norm"]):
        with pytest.raises(UsageError, match="norm and recognisability are of a --model"):
            run(photos, tmp_path / "other", *given, *words)
