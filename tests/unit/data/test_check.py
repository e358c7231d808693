from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.paths import SHARED
from vplface.cli.app import app
from vplface.data import check as check_module
from vplface.data.check import DROPPED, KINDS, check, dropped
from vplface.data.drop import read_drop
from vplface.data.formats.image_folder import ImageFolder
from vplface_synthetic import SyntheticFaces

REAL = SHARED / "data"


def encoded(picture: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Five people with four pictures each, nothing wrong with any."""
    root = tmp_path_factory.mktemp("sound")
    faces = SyntheticFaces(identities=5, pictures=4, seed=3)
    for index in range(20):
        path = root / f"p{index // 4}" / f"{index % 4}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(faces.picture(index)))
    return root


@pytest.fixture
def faces(sound, tmp_path) -> Path:
    """A copy to spoil."""
    for path in sound.rglob("*.png"):
        copy = tmp_path / "faces" / path.relative_to(sound)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path / "faces"


def found(root: Path, workers: int = 0) -> dict[str, list[str]]:
    pictures = ImageFolder(root)
    told: dict[str, list[str]] = {}
    for finding in check(pictures, workers):
        told.setdefault(pictures.name(finding.index), []).append(finding.kind)
    return told


def grey(value: int) -> np.ndarray:
    return np.full((112, 112, 3), value, np.uint8)


def test_check_finds_nothing_in_a_sound_set(sound):
    assert found(sound) == {}


PICTURE = SyntheticFaces(identities=1, pictures=2, seed=99).picture(1)
NEW = encoded(PICTURE)


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"p1/x.png": b"text"}, {"p1/x.png": ["unreadable"]}),
        ({"p1/x.png": b""}, {"p1/x.png": ["unreadable"]}),
        ({"p1/x.png": NEW[:-300]}, {"p1/x.png": ["truncated"]}),
        ({"p1/x.jpg": encoded(PICTURE, ".jpg")[:-100]}, {"p1/x.jpg": ["truncated"]}),
        ({"p1/x.png": encoded(PICTURE[:15])}, {"p1/x.png": ["tiny"]}),
        ({"p1/x.png": encoded(grey(0))}, {"p1/x.png": ["constant"]}),
        ({"p1/x.jpg": encoded(grey(140), ".jpg")}, {"p1/x.jpg": ["constant"]}),
        ({"p1/x.png": NEW, "p1/y.png": NEW, "p1/z.png": NEW}, {"p1/y.png": ["duplicate"], "p1/z.png": ["duplicate"]}),
        (
            {"p1/x.png": NEW, "p1/y.png": NEW, "p2/z.png": NEW},
            {name: ["duplicate-across"] for name in ("p1/x.png", "p1/y.png", "p2/z.png")},
        ),
        ({"p1/x.png": NEW, "p1/y.jpg": encoded(PICTURE, ".jpg")}, {"p1/y.jpg": ["near-duplicate"]}),
        (
            {"p1/x.png": NEW, "p2/y.jpg": encoded(PICTURE, ".jpg")},
            {"p1/x.png": ["near-duplicate-across"], "p2/y.jpg": ["near-duplicate-across"]},
        ),
        ({"p1/x.png": encoded(cv2.resize(PICTURE, (250, 200)))}, {"p1/x.png": ["size"]}),
        ({"p9/x.png": NEW}, {"p9/x.png": ["single"]}),
        ({"p9/x.png": b"text"}, {"p9/x.png": ["unreadable", "single"]}),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_check_finds_each_defect_and_nothing_else(faces, planted, expected, workers):
    for name, content in planted.items():
        (faces / name).parent.mkdir(exist_ok=True)
        (faces / name).write_bytes(content)
    assert found(faces, workers) == expected


def test_check_finds_several_defects_across_chunks(faces, monkeypatch):
    monkeypatch.setattr(check_module, "_CHUNK", 3)
    (faces / "p0" / "0.png").write_bytes(b"text")
    (faces / "p4" / "x.png").write_bytes((faces / "p0" / "1.png").read_bytes())
    (faces / "p4" / "3.png").write_bytes(NEW[:2000])
    expected = {
        "p0/0.png": ["unreadable"],
        "p0/1.png": ["duplicate-across"],
        "p4/3.png": ["truncated"],
        "p4/x.png": ["duplicate-across"],
    }
    assert found(faces) == found(faces, 2) == expected


def test_dropped_lists_pictures_of_the_chosen_kinds(faces):
    (faces / "p1" / "x.png").write_bytes(NEW)
    (faces / "p9").mkdir()
    (faces / "p9" / "x.png").write_bytes(NEW)
    pictures = ImageFolder(faces)
    findings = check(pictures)
    assert dropped(pictures, findings) == {
        "p1/x.png": "duplicate-across: same bytes as p9/x.png, which is of p9",
        "p9/x.png": "duplicate-across: same bytes as p1/x.png, which is of p1",
    }
    assert dropped(pictures, findings, ["single"]) == {"p9/x.png": "single: the only picture of p9"}
    assert dropped(pictures, findings, KINDS)["p9/x.png"].endswith("of p1; single: the only picture of p9")


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_vplface_data_check_writes_a_drop_list_for_vplface_data_convert(faces, tmp_path):
    (faces / "p1" / "0.png").write_bytes(b"text")
    (faces / "p9").mkdir()
    (faces / "p9" / "x.png").write_bytes(NEW)
    result = run("check", faces, "--out", tmp_path / "drop.txt", "--sheet", tmp_path / "sheet.png", "--workers", 0)
    assert result.exit_code == 0
    assert "p1/0.png: unreadable: not a jpg, png, webp or bmp file" in result.stdout
    assert read_drop(tmp_path / "drop.txt") == {"p1/0.png": "unreadable: not a jpg, png, webp or bmp file"}
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
    assert run("convert", faces, tmp_path / "clean", "--drop", tmp_path / "drop.txt").exit_code == 0
    assert found(tmp_path / "clean") == {"p9/x.png": ["single"]}

    result = run("check", faces, "--json", "--workers", 0, "--kinds", "single,unreadable")
    told = json.loads(result.stdout)
    assert (told["pictures"], told["identities"], told["dropped"]) == (21, 6, 2)
    assert told["kinds"] == ["unreadable", "single"]
    assert {kind: count for kind, count in told["counts"].items() if count} == {"unreadable": 1, "single": 1}
    assert [finding["name"] for finding in told["findings"]] == ["p1/0.png", "p9/x.png"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere"], 1, "nowhere: does not exist"),
        (["faces", "--kinds", "blurred"], 2, "expected some of unreadable, truncated"),
        (["faces", "--kinds", ""], 2, "expected some of unreadable"),
        (["faces", "--sheet", "x.pdf"], 2, "must end in .png or .jpg"),
        (["faces", "--model", "none.onnx"], 1, "none.onnx"),
    ],
)
def test_vplface_data_check_reports_wrong_arguments(faces, monkeypatch, arguments, status, says):
    monkeypatch.chdir(faces.parent)
    result = run("check", *arguments)
    assert result.exit_code == status
    assert says in result.stderr


def test_vplface_data_check_explains_every_kind_and_states_the_default():
    from vplface.cli.data_check import _MEANINGS

    assert list(_MEANINGS) == list(KINDS)
    assert ", ".join(DROPPED) in " ".join(run("check", "--help").stdout.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real faces are not here")
def test_check_finds_photographs_that_lfw_has_under_two_names():
    """Each of these pairs is visibly one photograph; their bytes differ."""
    pictures = ImageFolder(REAL / "lfw112")
    pairs = {
        (pictures.identities[pictures.labels[finding.index]], pictures.identities[pictures.labels[finding.other]])
        for finding in check(pictures, 2)
        if finding.kind in ("near-duplicate-across", "duplicate-across")
    }
    known = [("Andrew_Caldecott", "Andrew_Gilligan"), ("Bart_Hendricks", "Ricky_Ray"), ("Emmy_Rossum", "Eva_Amurri")]
    assert all({(one, other), (other, one)} <= pairs for one, other in known)
