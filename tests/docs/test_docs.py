"""The documentation names what there is: keys and defaults of recipes, commands and their options, files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from vplface.cli.app import app
from vplface.data.augment import Augmentation
from vplface.study.grid import StudyFile, read_grid
from vplface.training import config

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def table(page: str, heading: str) -> dict[str, str]:
    """First column → second column of the tables between a heading and the next, first columns unquoted."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]+?) \|", section, flags=re.MULTILINE)
    return {key: value.strip("`") for key, value in rows}


def require_default(said: str, default: Any) -> None:
    """A number, truth value or word in the column is the default; where there is none, so says the column."""
    if isinstance(default, bool):
        assert said == str(default).lower()
    elif isinstance(default, int | float):
        assert float(said) == default
    elif isinstance(default, str):
        assert said == default
    elif default is None:
        assert not re.match(r"[\d.]", said)


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("### `backbone`", config.Backbone),
        ("### `variational`", config.Injection),
        ("### `optimizer`", config.Optimizer),
        ("### `schedule`", config.Schedule),
    ],
)
def test_every_key_of_a_section_is_explained_with_its_default(heading: str, section: type[BaseModel]) -> None:
    said = table("recipes.md", heading)
    assert set(said) == set(section.model_fields)
    for key, default in section().model_dump(mode="json").items():
        require_default(said[key], default)


def test_every_key_of_a_run_is_explained_with_its_default() -> None:
    sections = {"data", "backbone", "margin", "variational", "terms", "optimizer", "schedule", "evaluation"}
    said = table("recipes.md", "### The run")
    assert set(said) == set(config.Config.model_fields) - sections
    defaults = config.build_config({"name": "x", "data": {"train": "faces"}}, "test").model_dump(mode="json")
    for key in set(said) - {"name"}:
        require_default(said[key], defaults[key])


def test_every_term_is_explained_with_its_defaults() -> None:
    said = table("recipes.md", "### `terms`")
    assert set(said) == {"name", *config.TERMS}
    for name, kind in config.TERMS.items():
        given = re.findall(r"`(\w+)` ([\d.]+)", "`" + said[name])
        assert {key: float(value) for key, value in given} == vars(kind())


def test_every_key_of_data_and_evaluation_is_explained() -> None:
    data = table("recipes.md", "### `data`")
    assert set(data) == set(config.Data.model_fields) | set(config.Source.model_fields)
    evaluation = table("recipes.md", "### `evaluation`")
    assert set(evaluation) == set(config.Evaluation.model_fields) | set(config.EvaluationSet.model_fields)
    said = table("data.md", "## Augmentation")
    assert {key: float(value) for key, value in said.items()} == vars(Augmentation())


def test_every_key_of_a_study_is_explained_and_the_example_is_one(tmp_path: Path) -> None:
    assert set(table("studies.md", "## A study file")) == set(StudyFile.model_fields)
    example = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "shallow.yaml").write_text(example, encoding="utf-8")
    grid = read_grid(tmp_path / "shallow.yaml")
    assert len(grid.cells) == 2 * 3 * 3


def test_every_shipped_recipe_is_listed() -> None:
    assert set(table("recipes.md", "## Shipped recipes")) >= set(config.shipped_recipes())


def commands_in(page: Path) -> list[str]:
    """Command lines: indented lines that begin with vplface, and the same in backticks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^ {4}(vplface .+)$", text, flags=re.MULTILINE) + re.findall(r"`(vplface [^`]+)`", text)
    return [line.split("#")[0].strip() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in commands_in(page):
        words = shlex.split(line)[1:]
        group = COMMANDS
        while words and words[0] in group:
            command = group[words.pop(0)]
            group = getattr(command, "commands", {})
        assert not group, f"{page.name}: no such command: {line}"
        options = [(*parameter.opts, *parameter.secondary_opts) for parameter in command.params]
        known = {"--help", *(option for both in options for option in both)}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{page.name}: {line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python_and_linked_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        ast.parse(block)
    for target in re.findall(r"\[[^\]]+\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
