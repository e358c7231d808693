"""The five commands of docs/galleries.md: from a model and a folder to a calibrated gallery with a quality gate."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.pages import ROOT
from vplface.cli.app import app
from vplface.deploy.gallery_folder import load_gallery
from vplface.embedder import Embedder


def five_commands() -> list[list[str]]:
    page = (ROOT / "docs" / "galleries.md").read_text(encoding="utf-8")
    section = page.split("## In five commands")[1].split("\n## ")[0]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("    ")]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
    return done.stdout


@pytest.mark.slow
def test_five_commands_make_a_calibrated_gallery_with_a_quality_gate(desk: Path) -> None:
    align, names, evaluate, enroll, identify = five_commands()
    for folder in ("faces", "people"):
        shutil.rmtree(folder, ignore_errors=True)
    run(*align[1:])
    assert names == ["ls", "photos", ">", "people.txt"]
    people = sorted(path.name for path in Path("photos").iterdir())
    Path("people.txt").write_text("\n".join(people) + "\n", encoding="utf-8")
    run(*[{"1e-4": "1e-1"}.get(word, word) for word in evaluate[1:]])
    point = json.loads(Path("runs/mine/best/operating_point.json").read_text())
    assert point["calibration"] is not None
    least = point["quality"]["least"]
    Path("faces/poor").mkdir()
    cv2.imwrite("faces/poor/1.png", np.full((112, 112, 3), 128, np.uint8))
    pictures = sorted(path for path in Path("faces").glob("*/*") if path.suffix in (".png", ".jpg"))
    raw = Embedder.load("runs/mine/best")(pictures, point["protocol"]["flip"], unit=False)
    quality = np.linalg.norm(raw, axis=1)
    assert (quality < least).any()
    said = json.loads(run(*enroll[1:], "--json"))
    stored = load_gallery(Path("people"))
    assert np.isfinite(stored.records.quality).all()
    passed = {each["path"] for each in said["passed_over"] if "too poor" in each["reason"]}
    by_picture = dict(zip(map(str, pictures), quality.tolist(), strict=True))
    clear = {path: value for path, value in by_picture.items() if abs(value - least) > 1e-4 * abs(least)}
    assert passed & clear.keys() == {path for path, value in clear.items() if value < least}
    assert len(stored) == len(pictures) - len(passed)
    (picture,) = json.loads(run(*identify[1:], "--json"))["pictures"]
    assert picture["faces"][0]["matches"]
