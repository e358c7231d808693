"""The warning about sets that are not aligned, by every command that looks."""

from __future__ import annotations

import json
import shlex

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers import painted
from vplface.backbones import build
from vplface.cli.app import app
from vplface.data.align import TEMPLATE, advice
from vplface.stored_model import ModelCard, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    path = tmp_path_factory.mktemp("alignment") / "run"
    save_model(path, backbone, ModelCard("tiny", 16, {"width": 8}))
    return path


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A folder of faces of half the size, and one of aligned faces, two pictures of each of four people."""
    monkeypatch.setattr(advice, "find_detector", lambda model: painted.Dots())
    monkeypatch.setattr(advice, "_warned", set())
    rng = np.random.default_rng(0)
    for name, scale in (("loose", 0.5), ("aligned", 1.0)):
        for index in range(8):
            points = (TEMPLATE - TEMPLATE.mean(0)) * 2 * scale + 2 * TEMPLATE.mean(0)
            picture = painted.photograph(points, 224, 224, radius=6)
            picture = np.clip(picture + rng.normal(0, 9, picture.shape), 0, 255).astype(np.uint8)
            path = tmp_path / name / f"p{index // 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture[..., ::-1])
    (tmp_path / "people.txt").write_text("p0\np1\np2\n")
    return tmp_path


@pytest.mark.parametrize("command", ["embed", "evaluate", "data check", pytest.param("plan", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["loose", "aligned"])
def test_a_command_warns_on_stderr_and_in_json(command, name, sets, model):
    data = sets / name
    arguments = {
        "embed": ["embed", model, data, "--out", sets / "embeddings.npz", "--json"],
        "evaluate": ["evaluate", model, "--data", data, "--people", sets / "people.txt", "--bootstrap", 0, "--json"],
        "data check": ["data", "check", data, "--workers", 0, "--json"],
        "plan": ["plan", "folder", f"data.train={data}", "data.holdout=0"],
    }[command]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    warned = f"warning: {data}: not aligned: in the 8 pictures looked at (224×224)" in done.stderr
    assert warned == (name == "loose")
    if warned:
        assert f"vplface data align {shlex.quote(str(data))} {data}-aligned" in done.stderr
    if "--json" in arguments:
        assert json.loads(done.stdout)["alignment"]["verdict"] == {"loose": "misplaced"}.get(name, "aligned")


def test_check_says_that_a_set_is_aligned(sets):
    done = CliRunner().invoke(app, ["data", "check", str(sets / "aligned"), "--workers", "0"], catch_exceptions=False)
    assert "alignment: good; in 8 pictures the landmarks are " in done.stdout
