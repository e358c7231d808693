"""Every command in the documentation exists; cheap ones are run."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from helpers.pages import PAGES, ROOT, SHORT, all_commands, blocks, command_of, commands, mentions, of_vplface
from vplface.cli.app import app
from vplface.config import read_config, read_recipe
from vplface.study import Grid, is_study, read_grid

RECIPES = {
    "my_recipe.yaml": "folder",
    "runs/mine": "folder",
    "small_r50.yaml": "folder",
    "shallow.yaml": "studies.md",
}
"""What stands for recipes that a page names and the program does not ship."""

NOT_RUN = {
    "bench": "measures for minutes; tests/integration/bench runs small ones",
    "data synth": "draws ten thousand faces; tests/unit/data/test_synthetic_folder.py draws a few",
    "data get lfw": "needs the network",
    "demo": "serves until it is stopped; tests/integration/demo starts it",
    "enroll people --encrypt": "needs a key; tests/unit/deploy/test_sealed.py has one",
    "enroll people --decrypt": "needs a key; tests/unit/deploy/test_sealed.py has one",
    "evaluate MODEL --data cfp112": "CFP's lists are read by tests/unit/data/test_pairs.py",
    "evaluate mobilefacenet.onnx": "needs real faces; tests/integration/cli/test_evaluate_quality.py has made-up ones",
    "evaluate runs/mine/best --data lfw --people people.txt --quality norm --quality fiqa.onnx": "needs a quality "
    "model; tests/integration/cli/test_evaluate_quality.py makes one",
    "evaluate other.onnx --data celeba --people 60.txt": "needs real faces",
    "evaluate other.onnx --data celeba --people others.txt": "needs real faces",
    "evaluate-ijb": "needs IJB's files; tests/integration/cli/test_evaluate_templates.py makes some up",
    "export runs/mine/best small.onnx": "needs more pictures; tests/integration/cli/test_export_cost.py has them",
    "export runs/late": "needs real faces, and minutes",
    "hub pull": "needs the network; tests/integration/test_hub.py serves a repository",
    "plan --classes": "arithmetic, of which tests/unit/test_plan.py makes the table",
    "plan small_r50.yaml": "needs the RecordIO that its configuration names",
    "train folder data.train=my_faces name=mine loggers": "needs W&B, MLflow; see tests/unit/training/test_loggers.py",
    "study": "runs for minutes; tests/integration/study and tests/integration/cli/test_app.py run small ones",
    "data overlap ../shared": "needs real faces",
}
"""Beginnings of commands that are read and not run, and why."""

LONG = ("train folder", "train finetune", "train my_recipe.yaml", "train runs/mine")
"""Beginnings of commands that run with a small network and four steps."""

SMALLER = {"1e-4": "1e-2"}
"""Rates for which there are too few pairs here, and what stands for them."""

ARGUMENTS_OF_PROSE = {"A", "B", "CONFIG", "NAME", "..."}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_command_lines_parse_and_name_valid_recipes(
    page: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, models = tmp_path / "desk", tmp_path / "shared" / "models"
    models.mkdir(parents=True)
    shutil.copy(template / "other.onnx", models / "mobilefacenet_foamliu.onnx")
    shutil.copytree(ROOT / "studies", desk / "studies")
    shutil.copy(template / "model.onnx", desk)
    (desk / "studies.md").write_text(blocks(ROOT / "docs" / "studies.md", "yaml")[0].text, encoding="utf-8")
    monkeypatch.chdir(desk)
    grids: dict[tuple[str, ...], Grid] = {}
    for line in commands(page):
        words = of_vplface(line)
        if words is None:
            continue
        _, command, rest = command_of(words)
        given = command.make_context("vplface", without_variables(rest)).params
        if "overrides" in given and given["config"] is not None:
            read_changes(RECIPES.get(given["config"], given["config"]), given, grids)


def without_variables(words: list[str]) -> list[str]:
    """Words that the shell does not fill in."""
    return [word for word in words if not word.startswith("$")]


def read_changes(recipe: str, given: dict[str, Any], grids: dict[tuple[str, ...], Grid]) -> None:
    """Read a recipe with its changes; ``grids`` keeps the studies, as many commands run parts of one."""
    changes = given["overrides"] or []
    study = (recipe, *changes)
    if study not in grids:
        if not is_study(read_recipe(recipe)):
            read_config(recipe, changes)
            return
        grids[study] = read_grid(recipe, changes)
    for part in ("arms", "settings"):
        if given[part] is not None:
            assert set(given[part].split(",")) <= set(getattr(grids[study], part)), f"{recipe}: {part}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_commands_in_prose_exist_with_their_options(page: Path) -> None:
    for words in mentions(page):
        _, command, rest = command_of(words)
        rest = [word for word in rest if word not in ARGUMENTS_OF_PROSE]
        with command.make_context("vplface", [], resilient_parsing=True) as context:
            values, _, _ = command.make_parser(context).parse_args([*rest, *closing(command, rest)])
            for parameter in command.params:
                if values.get(parameter.name) is not None:
                    parameter.process_value(context, values[parameter.name])


def closing(command: Any, words: list[str]) -> list[str]:
    """A value for an option that the text names without one."""
    takes_value = {name for each in command.params if not getattr(each, "is_flag", True) for name in each.opts}
    return ["1"] if words and words[-1] in takes_value else []


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(of_vplface, commands(page)))], ids=lambda p: p.name)
def test_pages_cheap_commands_run_in_order(page: Path, desk: Path) -> None:
    shutil.copy(ROOT / "src" / "vplface" / "configs" / "folder.yaml", desk / "my_recipe.yaml")
    for line in commands(page):
        words = of_vplface(line)
        if words is None or " ".join(words).startswith(tuple(NOT_RUN)):
            continue
        if words[:2] == ["data", "align"]:
            shutil.rmtree(words[3], ignore_errors=True)  # these crops are made from photographs here
        if "name=mine" in words and words[0] == "train":
            shutil.rmtree("runs/mine", ignore_errors=True)
        words = [SMALLER.get(word, word) for word in without_variables(words)]
        if " ".join(words).startswith(LONG) and "--resume" not in words:
            own = any(word.startswith("backbone.weights=") for word in words)
            words += [word for word in SHORT if not own or not word.startswith("backbone")]
        _, command, _ = command_of(words)
        if any("--workers" in parameter.opts for parameter in command.params) and "--workers" not in words:
            words += ["--workers", "0"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{page.name}: vplface {' '.join(words)}\n{done.output}"


def test_NOT_RUN_LONG_and_RECIPES_refer_to_commands_on_the_pages() -> None:
    lines = [" ".join(words) for page in PAGES for line in commands(page) if (words := of_vplface(line))]
    for beginning in (*NOT_RUN, *LONG):
        assert any(line.startswith(beginning) for line in lines), beginning
    assert all(any(recipe in line.split() for line in lines) for recipe in RECIPES)


def test_pages_mention_every_command() -> None:
    text = "\n".join(text_of(page) for page in PAGES)
    assert [name for name in all_commands() if not re.search(rf"vplface {name}\b", text)] == []


def test_pages_options_named_alone_belong_to_a_command_or_script() -> None:
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    for command in all_commands().values():
        known |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    for folder in ("benchmarks", "examples"):
        known |= {option for script in (ROOT / folder).rglob("*.py") for option in options_of(script)}
    named = {option: page.name for page in PAGES for option in re.findall(r"`(--[a-z-]+)", text_of(page))}
    assert {option: page for option, page in named.items() if option not in known} == {}


def options_of(script: Path) -> set[str]:
    """Options that a script takes, by itself or by what lies beside it."""
    texts = [text_of(file) for file in script.parent.glob("*.py")]
    by_keyword = [f"--{name}" for text in texts for name in re.findall(r'options\(.*?, (\w+)="', text)]
    by_parameter = [
        f"--{name}" for text in texts for name in re.findall(r"^    (\w+): Annotated\[", text, re.MULTILINE)
    ]
    return {*by_keyword, *by_parameter, *(name for text in texts for name in re.findall(r'"(--[a-z-]+)"', text))}


def test_pages_extras_make_targets_and_options_of_torchrun_and_scripts_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for page in PAGES:
        for extra in re.findall(r"(?:vplface|'\.)\[([a-z,-]+)\]", text_of(page)):
            assert set(extra.split(",")) <= extras.keys(), f"{page.name}: no extra {extra}"
        for words in commands(page):
            if words[0] == "make":
                assert set(words[1:]) <= set(targets), f"{page.name}: {words}"
            if "torchrun" in words:
                get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
            if "python" in words:
                script, *options = words[words.index("python") + 1 :]
                assert (ROOT / script).is_file(), f"{page.name}: {script}"
                given = {option for option in options if option.startswith("--")}
                assert given <= options_of(ROOT / script), f"{page.name}: {script} {given}"


def test_evaluation_page_lists_the_options_of_vplface_evaluate_with_defaults() -> None:
    section = text_of(ROOT / "docs" / "evaluation.md").split("## Commands\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`--.+?) \| ([^|]*?) ?\|", section, flags=re.MULTILINE)
    said = {option: default for options, default in rows for option in re.findall(r"`(--[a-z-]+)`", options)}
    options = {each.opts[0]: each for each in all_commands()["evaluate"].params if each.opts[0].startswith("--")}
    assert said.keys() == options.keys()
    for name, each in options.items():
        default = each.default
        if isinstance(default, int | str) and not isinstance(default, bool):
            assert said[name].strip("`") == str(default), name


def test_pages_bash_blocks_have_valid_syntax() -> None:
    for page in PAGES:
        for block in blocks(page, "bash"):
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
