"""Paths on the command line and in the commands that messages propose; counts that options name."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.errors import DataError
from vplface.paths import argument, at_home
from vplface.report import read_run

RUN = CliRunner()


def test_at_home_expands_only_a_leading_tilde_of_a_known_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert at_home("~/a") == Path("/home/ada/a")
    assert at_home(Path("~")) == Path("/home/ada")
    assert at_home("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
    assert at_home("./~/a") == Path("./~/a")


def test_vplface_train_reads_a_recipe_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "the recipe.yaml").write_text("name: x\ndata: {train: nowhere}\n")
    done = RUN.invoke(app, ["train", "~/the recipe.yaml", "--dry-run"])
    assert done.exit_code == 1
    assert "nowhere: does not exist" in done.output
    assert not Path("~").exists()


@pytest.mark.parametrize("name", ["run", "my run #2", "-x", "a\nb", "it's", "$HOME `x`", "~", "*"])
def test_argument_is_one_shell_word_for_any_path(name):
    (word,) = shlex.split(argument(name))
    assert Path(word) == Path(name)
    assert not word.startswith(("-", "~"))


def test_read_run_proposes_a_path_in_shell_quotes(tmp_path):
    arm = tmp_path / "study" / "arm #1"
    arm.mkdir(parents=True)
    (arm / "config.yaml").write_text("{}")
    with pytest.raises(DataError, match=f"give '{arm}'$"):
        read_run(arm.parent)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("data", "check", "x", "--workers", "100000"), "--workers"),
        (("data", "synth", "x", "--workers", "100000"), "--workers"),
        (("data", "synth", "x", "--identities", "1000000000"), "--identities"),
        (("data", "align", "x", "y", "--workers", "100000"), "--workers"),
        (("bench", "head", "--processes", "100000"), "--processes"),
        (("bench", "head", "--classes", "9" * 5000), "--classes"),
        (("bench", "head", "--dim", "1000000000"), "--dim"),
        (("evaluate", "m", "--data", "x", "--bootstrap", "1000000000"), "--bootstrap"),
        (("evaluate", "m", "--data", "x", "--workers", "100000"), "--workers"),
        (("study", "quickstart", "--seeds", "²"), "--seeds"),
        (("study", "quickstart", "--seeds", "9" * 5000), "--seeds"),
    ],
)
def test_vplface_names_the_option_of_an_excessive_number(words, option):
    refused = RUN.invoke(app, words)
    assert refused.exit_code == 2, refused.output
    assert option in refused.output
    assert "Traceback" not in refused.output
