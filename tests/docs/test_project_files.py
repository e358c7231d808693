"""The citation, the workflow and the pages for contributors agree with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_CITATION_cff_states_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], str(citation["version"])) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Deng", "Guo", "Yang", "Lattas", "Zafeiriou"]
    bibtex = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in bibtex
    assert paper["collection-title"] in bibtex


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_existing_targets_with_read_permission_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text
    jobs = workflow["jobs"]
    assert all("permissions" not in job for job in jobs.values())
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for command in commands:
        program, *words = command.split()
        assert words[0] in TARGETS if program == "make" else (ROOT / program).is_file(), command


def test_workflow_covers_every_declared_python_version() -> None:
    (workflow,) = WORKFLOWS
    tested = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    assert tested == [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_CONTRIBUTING_and_SECURITY_name_files_and_targets_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:src|tests|docs)/[^`]*)`", text):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"^ {4}make (\w+)", text, flags=re.MULTILINE)) <= TARGETS


def test_index_page_lists_every_extra_that_users_install() -> None:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page, flags=re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert set(PROJECT["optional-dependencies"]) - {"dev", "docs"} <= listed
