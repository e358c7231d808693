"""``vplface list`` and ``vplface docs``, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from helpers.pages import ROOT
from vplface.cli import docs as docs_module
from vplface.cli.app import app
from vplface.cli.docs import section_of
from vplface.cli.registries import REGISTRIES
from vplface.config import shipped_recipes
from vplface.data.degrade import KINDS
from vplface.evaluation.metrics import METRICS
from vplface.margins import MARGINS
from vplface.prototypes.memories import MEMORIES
from vplface.terms import TERMS


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("margins", list(MARGINS)),
        ("memories", list(MEMORIES)),
        ("terms", list(TERMS)),
        ("degradations", list(KINDS)),
        ("recipes", shipped_recipes()),
    ],
)
def test_list_has_every_name_of_the_registry_with_a_line_and_its_defaults(what: str, names: list[str]) -> None:
    found = json.loads(run("list", what, "--json"))[what]
    assert [each["name"] for each in found] == names
    assert all(len(each["about"].split()) > 2 and "\n" not in each["about"] for each in found)


def test_list_shows_defaults_as_recipes_write_them() -> None:
    (arcface,) = json.loads(run("list", "margins", "arcface", "--json"))["margins"]
    assert arcface["options"] == {"scale": 64.0, "margin": 0.5, "margin_gradient": "exact"}
    assert "plus false" in run("list", "margins", "elasticface")
    (tiny,) = json.loads(run("list", "backbones", "tiny", "--json"))["backbones"]
    assert tiny["options"]["width"] == 32
    assert tiny["about"].startswith("3.8 M parameters")  # 3.77 M, see docs/backbones.md


def test_list_names_metrics_with_their_points_and_every_list() -> None:
    keys = [each["name"] for each in json.loads(run("list", "metrics", "--json"))["metrics"]]
    assert len(keys) == len(METRICS)
    assert {"tar@far=RATE", "rank-K", "eer"} <= set(keys)
    assert [each["name"] for each in json.loads(run("list", "--json"))["lists"]] == list(REGISTRIES)
    assert "parquet" in run("list", "formats")


def test_list_suggests_a_name_for_a_typo() -> None:
    assert "no 'arcfase' among the margins; did you mean 'arcface'?" in run("list", "margins", "arcfase", code=2)


def test_docs_prints_pages_and_sections_as_written() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert run("docs", "recipes").rstrip() == page.rstrip()
    assert run("docs", "did", "it", "help?").startswith("## Did it help?\n")
    assert run("docs", "recipes", "--where").strip() == str(ROOT / "docs" / "recipes.md")
    assert {each["topic"] for each in json.loads(run("docs", "--json"))["pages"]} >= {"index", "method", "recipes"}
    assert "did you mean 'losses'?" in run("docs", "losess", code=2)


def test_docs_without_pages_is_an_error_that_says_where_they_come_from(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(docs_module, "__file__", str(tmp_path / "a" / "b" / "c" / "docs.py"))
    monkeypatch.setattr(docs_module.sysconfig, "get_path", lambda _: str(tmp_path))
    assert "no pages of the documentation; they come with the wheel and with a clone" in run("docs", code=1)
    pages = tmp_path / "share" / "doc" / "vplface"
    pages.mkdir(parents=True)
    (pages / "index.md").write_text("# Start\n")
    assert "Start" in run("docs")


def test_section_of_ends_at_the_next_heading_of_its_level_and_skips_code() -> None:
    text = "# Page\n\n## One\na\n```bash\n# Two in code\n```\n### Below\nb\n## Two\nc\n"
    assert section_of(text, "one") == "## One\na\n```bash\n# Two in code\n```\n### Below\nb\n"
    assert section_of(text, "below") == "### Below\nb\n"
    assert section_of(text, "TWO") == "## Two\nc\n"
    assert section_of(text, "three") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("vplface train fold", "folder"), ("vplface list margins arcf", "arcface"), ("vplface docs rec", "recipes")],
)
def test_shells_complete_names(typed: str, expected: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_VPLFACE_COMPLETE": "complete_bash"}
    code = "import sys; sys.argv[0] = 'vplface'; from vplface.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True)
    assert expected in done.stdout.split(), done.stderr
