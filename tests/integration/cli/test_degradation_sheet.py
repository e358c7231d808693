"""``vplface data info --degrade --sheet``: pictures beside their degraded versions."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data.degrade import Degradation, Noise
from vplface.data.formats.image_folder import ImageFolder

SIDE, HEAD, CAPTION, GAP = 112, 26, 22, 24


def info(*arguments):
    return CliRunner().invoke(app, ["data", "info", *map(str, arguments)])


def test_vplface_data_info_sheet_shows_pictures_beside_their_degraded_versions(faces, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = info(faces, "--degrade", "noise:sigma=50", "--degrade", "darkness:light=0,noise=0", "--sheet", sheet)
    assert result.exit_code == 0, result.output
    assert f"wrote {sheet}" in result.stdout
    drawn = cv2.imread(str(sheet), cv2.IMREAD_COLOR_RGB)
    block = CAPTION + SIDE
    assert drawn.shape == (HEAD + 4 * block, 8 * SIDE + GAP, 3)
    pictures, noise = ImageFolder(faces), Degradation(Noise((50.0, 50.0)))
    for place, index in enumerate(np.linspace(0, len(pictures) - 1, 8).round().astype(int).tolist()):
        top, left = HEAD + place // 4 * block + CAPTION, place % 4 * SIDE
        right, clean = left + 4 * SIDE + GAP, pictures.picture(index)
        assert np.array_equal(drawn[top : top + SIDE, left : left + SIDE], clean)
        assert np.array_equal(drawn[top : top + SIDE, right : right + SIDE], noise(clean, pictures.name(index)))
        assert not drawn[top + 2 * block : top + 2 * block + SIDE, right : right + SIDE].any()


def test_vplface_data_info_sheet_leaves_json_alone_on_stdout_and_skips_unreadable_pictures(faces, tmp_path):
    (tmp_path / "faces/a").mkdir(parents=True)
    (tmp_path / "faces/b").mkdir()
    (tmp_path / "faces/a/1.png").write_bytes((faces / "p0/0.png").read_bytes())
    (tmp_path / "faces/b/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = info(tmp_path / "faces", "--degrade", "blur", "--sheet", tmp_path / "sheet.jpg", "--json")
    assert json.loads(result.stdout)["pictures"] == 2
    assert cv2.imread(str(tmp_path / "sheet.jpg")).shape == (HEAD + CAPTION + SIDE, 8 * SIDE + GAP, 3)
    (tmp_path / "faces/a/1.png").write_bytes(b"")
    result = info(tmp_path / "faces", "--degrade", "blur", "--sheet", tmp_path / "sheet.jpg")
    assert result.exit_code == 1
    assert "none of the pictures to show can be read" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--degrade", "blur"], "--degrade and --sheet go together"),
        (["--sheet", "sheet.png"], "--degrade and --sheet go together"),
        (["--degrade", "blur", "--sheet", "sheet.pdf"], "--sheet sheet.pdf: the name must end in"),
        (["--degrade", "blurr", "--sheet", "sheet.png"], "--degrade blurr: kind 'blurr' is unknown"),
    ],
)
def test_vplface_data_info_sheet_refuses_invalid_options(faces, arguments, message):
    result = info(faces, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
