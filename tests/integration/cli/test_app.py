import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.text import Text
from typer.testing import CliRunner

from helpers.pages import all_commands, command_of
from vplface import __version__
from vplface.cli.app import app

COMMANDS = [
    "train", "study", "plan", "evaluate", "report", "export", "embed", "verify", "enroll", "identify", "demo", "data",
]  # fmt: skip


@pytest.fixture
def vplface(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


SMALL = (
    "backbone={name: tiny, embedding_dim: 8, options: {width: 8}}",
    "schedule={length: 4, warmup: 1}",
    "batch_size=16",
    "variational={lam: 0.2, delta_t: 3, start: 1}",
    "data.workers=0",
    "data.holdout=0.4",
    "evaluation={every: 2, bootstrap: 30, fars: [0.1]}",
)


def test_vplface_help_names_every_command_and_app_imports_neither_torch_nor_cv2(vplface):
    result = vplface("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output
        assert vplface(command, "--help").exit_code == 0
    assert vplface("--version").output.strip() == __version__
    probe = "import sys, vplface.cli.app; print('torch' in sys.modules, 'cv2' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == ["False", "False"]


def test_vplface_help_joins_the_lines_of_a_paragraph_and_keeps_marked_ones():
    told = command_of(["study"])[1].help
    assert "differences are taken on the same pairs" in told
    assert "\nvplface study shallow.yaml --dry-run\n" in told
    for command in all_commands().values():
        plain = [part for part in command.help.split("\n\n") if not part.startswith("\b")]
        assert not any("\n" in part for part in plain)


def test_vplface_help_has_no_brackets_that_rich_reads_as_markup():
    for name, command in all_commands().items():
        for told in (command.help, *(option.help for option in command.params)):
            said = (told or "").replace("\b", "")
            assert Text.from_markup(said).plain == said, name


@pytest.mark.slow
def test_vplface_help_is_never_cut():
    for name in ("", *all_commands()):
        shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}).output
        assert shown.count("\n") > 5
        assert max(map(len, shown.splitlines())) <= 80, shown
        assert not re.search(r"\S…", shown), shown


def test_vplface_train_writes_a_report_refuses_a_second_run_and_resumes(vplface, faces):
    result = vplface("train", "folder", f"data.train={faces}", "name=mine", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["schema"] == 1
    assert 0 <= told["runs"]["mine"]["holdout"]["tar@far=1e-1"]["value"] <= 1
    assert "<!doctype html>" in Path(told["report"]).read_text(encoding="utf-8").lower()
    again = vplface("train", "folder", f"data.train={faces}", "name=mine", *SMALL)
    assert again.exit_code == 1
    assert "already holds a run" in again.stderr
    resumed = vplface("train", "runs/mine", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "report: runs/mine/report.html" in resumed.stdout


def test_vplface_study_compares_the_arms_of_a_recipe_and_keeps_finished_runs(vplface, faces):
    arms = "arms={plain: {variational: null}, vpl: {}}"
    words = ("study", "folder", f"data.train={faces}", "name=s", *SMALL, arms)
    result = vplface(*words, "--seeds", "0,1", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["seeds"] == [0, 1]
    figure = told["runs"]["vpl"]["holdout"]["tar@far=1e-1"]
    assert figure["value"] == pytest.approx(np.mean(figure["per_seed"]))
    difference = told["differences"]["vpl"]["holdout"]["tar@far=1e-1"]
    plain = told["runs"]["plain"]["holdout"]["tar@far=1e-1"]["value"]
    assert difference["difference"] == pytest.approx(figure["value"] - plain)
    assert difference["ci95"][0] <= difference["difference"] <= difference["ci95"][1]
    again = vplface(*words, "--seeds", "0,1", "--json")
    assert json.loads(again.stdout)["runs"] == told["runs"]
    shown = vplface(*words, "--seeds", "0,1")
    assert "mean of 2 seeds" in " ".join(shown.stdout.split())
    changed = vplface(*words, "seed=3", "batch_size=8", "--seeds", "0,1")
    assert changed.exit_code == 1
    assert "another configuration" in changed.stderr


def test_vplface_plan_far_says_how_many_people_a_claim_needs(vplface):
    planned = vplface("plan", "--far", "1e-4", "--json")
    assert json.loads(planned.stdout)["claims"] == [
        {"far": 1e-4, "comparisons": 29956, "people": 59912, "fewest_people": 246, "fewest_pairs": 30135}
    ]
    shown = vplface("plan", "--far", "1e-2", "--far", "1e-4").stdout
    assert "59,912" in shown
    assert "246 people, 30,135 pairs" in shown
    for wrong, message in (
        (("quickstart", "--far", "1e-4"), "goes alone"),
        (("--classes", "2M", "--far", "1e-4"), "goes alone"),
        (("--far", "1"), "--far: a claim is about a false accept rate between 0 and 1"),
    ):
        refused = vplface("plan", *wrong)
        assert refused.exit_code == 2
        assert message in refused.output


def test_vplface_plan_equals_train_dry_run_and_writes_nothing(vplface, faces, tmp_path):
    planned = vplface("plan", "folder", f"data.train={faces}", *SMALL, "--json")
    dry = vplface("train", "folder", f"data.train={faces}", *SMALL, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    assert planned.stdout == dry.stdout
    assert json.loads(planned.stdout)["plan"]["steps"] == 4
    shown = vplface("plan", "folder", f"data.train={faces}", *SMALL).stdout
    assert "coverage by Δt" in shown
    assert "remembered" not in shown
    several = "variational.memory={name: several, count: 2}"
    assert "SeveralFeatures(count=2)" in vplface("plan", "folder", f"data.train={faces}", *SMALL, several).stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("train", "nowhere.yaml"), 1, "no configuration 'nowhere.yaml'"),
        (("train", "folder", "optimzer.lr=1"), 2, "did you mean 'optimizer'"),
        (("train", "folder", "optimizer.lr"), 2, "key=value"),
        (("train", "folder", "data.train=/nowhere"), 1, "/nowhere"),
        (("study", "folder", "--seeds", "0,x"), 2, "--seeds"),
        (("study", "folder", "--seeds", "1,1"), 2, "--seeds"),
        (("trian",), 2, "trian"),
        (("train",), 2, "CONFIG"),
        (("train", "folder", "--no-such-option"), 2, "no-such-option"),
        (("evaluate", "nowhere", "--data", "nowhere", "--pairs", "nowhere"), 1, "nowhere"),
        (("export", "nowhere", "model.onnx"), 1, "nowhere"),
        (("report", "nowhere"), 1, "nowhere"),
    ],
)
def test_vplface_reports_an_error_on_stderr_with_its_exit_status(vplface, words, status, message):
    result = vplface(*words)
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
