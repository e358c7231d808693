from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import typer
import yaml
from typer.testing import CliRunner, Result

from vplface.cli.report import report
from vplface.errors import DataError


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((112, 112, 3), 90, np.uint8))


def set_worst(folder: Path, *names: str) -> None:
    pairs = [{"left": name, "right": name, "similarity": 0.5} for name in names]
    (folder / "evaluation.json").write_text(json.dumps({"LFW": {"worst": {"impostor": pairs}}}))


def test_vplface_report_writes_the_page_and_prints_the_verdict(study: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    result = run(*study, "--out", out, "--title", "A & B")
    assert result.exit_code == 0, result.output
    assert "<h1>A &amp; B</h1>" in out.read_text(encoding="utf-8")
    assert result.stdout.splitlines()[-1] == f"wrote {out}"
    told = json.loads(run(*study, "--out", out, "--json").stdout)
    assert told["schema"] == 1
    assert told["report"] == str(out)
    assert "vpl-arcface is ahead" in told["verdict"]


def test_vplface_report_takes_pictures_from_the_folder_of_their_set(vpl_run: Path, tmp_path: Path) -> None:
    set_worst(vpl_run, "a/a.png")
    config = {
        "data": {"train": [{"path": str(tmp_path / "elsewhere")}]},
        "evaluation": {"sets": [{"name": "LFW", "path": str(tmp_path / "lfw")}]},
    }
    (vpl_run / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "page.html"
    draw(tmp_path / "elsewhere" / "a" / "a.png")
    assert run(vpl_run, "--out", out).exit_code == 0
    assert "<img" not in out.read_text(encoding="utf-8")
    draw(tmp_path / "lfw" / "a" / "a.png")
    assert run(vpl_run, "--out", out).exit_code == 0
    assert out.read_text(encoding="utf-8").count("<img") == 2


def test_vplface_report_omits_damaged_pictures_and_those_outside_the_folder(vpl_run: Path, tmp_path: Path) -> None:
    draw(tmp_path / "secret.png")
    draw(tmp_path / "given" / "fine.png")
    (tmp_path / "given" / "damaged.png").write_bytes(b"not a picture")
    set_worst(vpl_run, "../secret.png", str(tmp_path / "secret.png"), "damaged.png", "fine.png")
    out = tmp_path / "page.html"
    result = run(vpl_run, "--out", out, "--pictures", tmp_path / "given")
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8").count("<img") == 2


def test_vplface_report_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    result = run(tmp_path, "--out", tmp_path / "page.html")
    assert isinstance(result.exception, DataError)
    assert "not a run folder" in str(result.exception)
