"""Fragments of recipes and studies in the pages, in YAML blocks and in prose, are valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from helpers import onnx_files
from helpers.pages import PAGES, Block, blocks
from vplface.config import Config, build_config, overlay, read_config, read_recipe
from vplface.errors import VplfaceError
from vplface.stored_model import CARD_KEY, ModelCard
from vplface.study.grid import StudyFile, grid_of_recipe, is_study, read_grid

BASE = read_recipe("folder")
"""A recipe in which every key may stand."""

PLACES = [
    (),
    ("data",),
    ("data", "train"),
    ("data", "augmentation"),
    ("backbone",),
    ("backbone", "preprocessing"),
    ("finetune",),
    ("ramps",),
    ("distill",),
    ("margin",),
    ("variational",),
    ("variational", "start"),
    ("optimizer",),
    ("schedule",),
    ("evaluation",),
]
"""Sections that a fragment may be of."""

FOR_NUMBERS = re.compile(r"\b(n|k)\b")

YAML_BLOCKS = [block for page in PAGES for block in blocks(page, "yaml")]


@pytest.fixture(autouse=True)
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder with the ONNX file that pages name, which has a card."""
    nodes = [
        onnx_files.node("Conv", "x,W", "c"),
        onnx_files.node("GlobalAveragePool", "c", "p"),
        onnx_files.node("Flatten", "p"),
    ]
    path = onnx_files.written(tmp_path / "model.onnx", nodes, W=np.ones((8, 3, 1, 1), np.float32))
    model = onnx.load(path)
    model.metadata_props.add(key=CARD_KEY, value=ModelCard("tiny", 8).to_json())
    onnx.save(model, path)
    monkeypatch.chdir(tmp_path)


def place(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=place)
def test_pages_yaml_block_is_a_valid_study_or_part_of_a_recipe(block: Block, tmp_path: Path) -> None:
    fragment = yaml.safe_load(block.text)
    if is_study(fragment):
        (tmp_path / "study.yaml").write_text(block.text, encoding="utf-8")
        read_grid(tmp_path / "study.yaml")
    else:
        grid_of_recipe(build_config(overlay(BASE, fragment), place(block)), [0])


def at(path: tuple[str, ...], fragment: Any) -> Any:
    for key in reversed(path):
        fragment = {key: fragment}
    return fragment


def fits(path: tuple[str, ...], fragment: dict[str, Any]) -> bool:
    if path == ("data", "train"):
        fragment = {"path": "my_faces", **fragment}
    try:
        build_config(overlay(BASE, at(path, fragment)), "a page")
    except VplfaceError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_keys_with_values_in_prose_are_valid_in_a_section(page: Path) -> None:
    for written in re.findall(r"`([a-z_.]+: [^`]+)`", page.read_text(encoding="utf-8")):
        if written.startswith("ijbc: "):  # a stage of benchmarks/evaluation.py
            continue
        key, value = FOR_NUMBERS.sub("2", written).split(": ", 1)
        *parents, last = key.split(".")
        fragment = at(tuple(parents), {last: yaml.safe_load(value)})
        assert any(fits(path, fragment) for path in PLACES), f"{page.name}: {written}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_overrides_in_prose_are_valid_for_a_recipe(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for change in re.findall(r"(?:`|^ {4})([a-z_.0-9]+=[^`(\n]+)(?:`|$)", text, flags=re.MULTILINE):
        key = change.partition("=")[0]
        if "." in key or key in Config.model_fields:
            read_config("quickstart", [change.replace("'", "")])
        else:
            assert key not in StudyFile.model_fields
