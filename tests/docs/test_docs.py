"""The documentation lists every key of recipes and studies with its default, and links to files that exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from helpers.pages import PAGES, ROOT
from vplface import config
from vplface.data.augment import Augmentation
from vplface.data.degrade import KINDS
from vplface.margins import MARGINS
from vplface.prototypes.memories import MEMORIES
from vplface.study.grid import StudyFile, read_grid
from vplface.terms import TERMS


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
        ("### `backbone`", config.BackboneConfig),
        ("### `finetune`", config.FinetuneConfig),
        ("### `variational`", config.VariationalConfig),
        ("### `optimizer`", config.OptimizerConfig),
        ("### `schedule`", config.ScheduleConfig),
    ],
)
def test_recipes_page_lists_every_key_of_a_section_with_its_default(heading: str, section: type[BaseModel]) -> None:
    said = table("recipes.md", heading)
    assert set(said) == set(section.model_fields)
    for key, default in section().model_dump(mode="json").items():
        require_default(said[key], default)


def test_recipes_page_lists_every_key_of_a_run_with_its_default() -> None:
    sections = {"data", "backbone", "margin", "variational", "terms", "optimizer", "schedule", "evaluation"}
    sections |= {"distill", "finetune", "fold", "ramps"}
    said = table("recipes.md", "### The run")
    assert set(said) == set(config.Config.model_fields) - sections
    defaults = config.build_config({"name": "x", "data": {"train": "faces"}}, "test").model_dump(mode="json")
    for key in set(said) - {"name"}:
        require_default(said[key], defaults[key])


def test_recipes_page_lists_every_term_with_its_defaults() -> None:
    said = table("recipes.md", "### `terms`")
    assert set(said) == {"name", *TERMS}
    for name, kind in TERMS.items():
        given = re.findall(r"`(\w+)` ([\d.]+)", "`" + said[name])
        assert {key: float(value) for key, value in given} == vars(kind())


@pytest.mark.parametrize(("heading", "kinds"), [("### `margin`", MARGINS), ("### `variational.memory`", MEMORIES)])
def test_recipes_page_lists_every_margin_and_memory_with_its_defaults(heading: str, kinds: dict[str, type]) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = text.split(f"{heading}\n", 1)[1].split("\n### ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (.+) \|$", section, flags=re.MULTILINE)
    said = {name: options for names, options in rows for name in re.findall(r"`(\w+)`", names) if name != "name"}
    assert said.keys() == kinds.keys()
    for name, kind in kinds.items():
        given = dict(re.findall(r"`(\w+)` `?([\w.-]+)", said[name]))
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        named = set(re.findall(r"`([a-z]\w*)`", said[name]))
        assert defaults.keys() <= named, name
        for key, default in defaults.items():
            if key in given and given[key] not in ("and", "as"):
                require_default(given[key], default)


def test_recipes_page_lists_every_key_of_distill_and_of_a_ramp() -> None:
    assert set(table("recipes.md", "### `distill`")) == set(config.DistillConfig.model_fields)
    of_ramps = set(config.RampsConfig.model_fields) | set(config.RampConfig.model_fields)
    assert set(table("recipes.md", "### `ramps`")) == of_ramps


def test_recipes_page_lists_every_key_of_a_fold() -> None:
    assert set(table("recipes.md", "### `fold`")) == set(config.FoldConfig.model_fields)


def test_recipes_page_lists_every_key_of_SyntheticConfig() -> None:
    said = re.search(r"^\| `synthetic` \| none \| (.+?) \|$", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.M)
    assert said is not None
    assert set(re.findall(r"`(\w+)`", said[1])) == set(config.SyntheticConfig.model_fields)


def test_recipes_and_data_pages_list_every_key_of_data_evaluation_and_Augmentation() -> None:
    data = table("recipes.md", "### `data`")
    assert set(data) == set(config.DataConfig.model_fields) | set(config.Source.model_fields)
    evaluation = table("recipes.md", "### `evaluation`")
    assert set(evaluation) == set(config.EvaluationConfig.model_fields) | set(config.EvaluationSet.model_fields)
    said = table("data.md", "## Augmentation")
    assert {key: float(value) for key, value in said.items()} == vars(Augmentation())


def test_studies_page_lists_every_key_of_StudyFile_and_shows_a_valid_example(tmp_path: Path) -> None:
    assert set(table("studies.md", "## A study file")) == set(StudyFile.model_fields)
    example = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "shallow.yaml").write_text(example, encoding="utf-8")
    grid = read_grid(tmp_path / "shallow.yaml")
    assert len(grid.cells) == 2 * 3 * 3


def test_recipes_page_lists_every_shipped_recipe() -> None:
    assert set(table("recipes.md", "## Shipped recipes")) >= set(config.shipped_recipes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_link_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\[[^\]]+\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_evaluation_page_lists_every_kind_of_degradation_with_its_defaults() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split("## Degraded pictures")[1]
    kinds, options = re.findall(r"((?:^\|.*\n)+)", text, flags=re.MULTILINE)[:2]
    said = {
        row[0]: {key: (float(low), float(high)) for key, low, high in re.findall(r"`(\w+)` \[(.+?), (.+?)\]", row[2])}
        for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", kinds, flags=re.MULTILINE)
    }
    assert said == {name: dataclasses.asdict(kind()) for name, kind in KINDS.items()}
    assert set(re.findall(r"^\| `(\w+)`", options, flags=re.MULTILINE)) == {"share", "seed", "probes"}
