"""A drop list made for one split of a set fits a recipe that reads this split."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.config import Source
from vplface.training.sources import open_source


def test_vplface_data_check_of_a_split_writes_a_drop_list_for_that_split(faces: Path, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part, people in (("train", "p0 p1 p2"), ("test", "p3 p4")):
            for person in people.split():
                for picture in sorted((faces / person).iterdir()):
                    file.write(picture, f"{part}/{person}/{picture.name}")
        file.write(faces / "p0/0.png", "train/p0/again.png")
        file.write(faces / "p1/1.png", "test/p3/p1.png")
    dropped = tmp_path / "drop.txt"
    run = CliRunner().invoke
    checked = run(app, ["data", "check", str(archive), "--split", "train", "--out", str(dropped), "--json"])
    assert json.loads(checked.stdout)["pictures"] == 13
    assert [line.split("\t")[0] for line in dropped.read_text().splitlines()] == ["p0/again.png"]
    assert len(open_source(Source(path=archive, split="train", drop=dropped))) == 12
    copied = run(
        app, ["data", "convert", str(archive), str(tmp_path / "copy"), "--split", "train", "--drop", str(dropped)]
    )
    assert copied.exit_code == 0, copied.output
    assert sorted(path.name for path in (tmp_path / "copy").iterdir() if path.is_dir()) == ["p0", "p1", "p2"]
