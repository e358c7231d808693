import json

import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.config import read_config

SOURCE = """\
from easydict import EasyDict as edict
config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "mbf"
config.embedding_size = 64
config.batch_size = 8
config.lr = choose()
config.rec = "REC"
config.num_epoch = 2
config.own = 3
config.dali = True
"""


@pytest.fixture
def vplface(tmp_path, monkeypatch, faces):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SOURCE.replace("REC", str(faces)), encoding="utf-8")
    return lambda *words: CliRunner().invoke(app, ["import-config", *map(str, words)])


def test_a_recipe_is_written_and_can_be_planned(vplface, tmp_path):
    result = vplface("small.py", "--gpus", 2, "--out", "small.yaml")
    assert result.exit_code == 0, result.output
    assert "optimizer.lr (small.py:7): config.lr is a call" in result.stdout
    assert "dali (small.py:11)" in result.stdout
    assert "own (small.py:10)" in result.stdout
    assert "next: vplface plan small.yaml" in result.stdout
    assert read_config("small.yaml").batch_size == 16
    planned = CliRunner().invoke(app, ["plan", "small.yaml", "data.workers=0", "--json"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["plan"]["steps"] == 6
    again = vplface("small.py", "--out", "small.yaml")
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_without_out_the_recipe_alone_is_on_stdout(vplface, tmp_path):
    result = vplface("small.py")
    (tmp_path / "other.yaml").write_text(result.stdout, encoding="utf-8")
    assert read_config("other.yaml").name == "small"


def test_json_holds_the_recipe_and_what_was_said(vplface):
    told = json.loads(vplface("small.py", "--json").stdout)
    assert told["schema"] == 1
    assert told["out"] is None
    assert told["recipe"]["margin"] == {"name": "cosface", "margin": 0.4, "scale": 64.0}
    assert told["origins"]["margin.margin"] == "config.margin_list, small.py:3"
    assert told["to_fill_in"] == [{"key": "optimizer.lr", "where": "small.py:7", "text": "config.lr is a call"}]
    assert [remark["key"] for remark in told["unknown"]] == ["own"]
    assert [remark["key"] for remark in told["no_counterpart"]] == ["dali"]
    assert any("batch_size" in difference for difference in told["differences"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "cannot be read"),
        ("broken.py", "config.lr = = 1\n", "broken.py, line 1: not Python"),
        ("other.py", "print(1)\n", "no configuration"),
        ("wrong.py", "config.lr = 'x'\n", "wrong.py:1: config.lr must be int or float"),
    ],
)
def test_faults_are_one_line_and_write_nothing(vplface, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    result = vplface(name, "--out", "recipe.yaml")
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "recipe.yaml").exists()
