"""The page on coming from elsewhere: a configuration becomes the recipe that is shown, and no key is forgotten."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.training import arcface_torch

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
THEIRS, _ = PAGE.split("\n## pytorch-metric-learning\n")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_configuration_becomes_the_recipe_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (config,), (shown,) = blocks(THEIRS, "python"), blocks(THEIRS, "yaml")
    Path("small_r50.py").write_text(config, encoding="utf-8")
    command = re.search(r"^ {4}vplface (import-config .+)$", THEIRS, flags=re.MULTILINE)
    assert command is not None
    done = CliRunner().invoke(app, shlex.split(command[1]))
    assert done.exit_code == 0, done.output
    assert Path("small_r50.yaml").read_text(encoding="utf-8").endswith(shown)


def test_every_key_that_is_translated_is_in_the_table() -> None:
    first = " ".join(re.findall(r"^\| (.+?) \|", THEIRS, flags=re.MULTILINE))
    known = {*arcface_torch._PLACES, *arcface_torch._NO_COUNTERPART} - {"lr_func", "dataset", "tf32"}
    logging = {key for key in known if "wandb" in key or key in ("suffix_run_name", "save_artifacts")}
    assert {key for key in known - logging if f"`{key}`" not in first} == set()
