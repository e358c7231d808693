import tomllib

import pytest
from packaging.requirements import Requirement

from helpers.paths import ROOT

FAULTY = {
    "torch": ("2.9.1", "CVE-2026-24747: a .pth file damages memory although only weights are loaded"),
    "filelock": ("3.20.2", "CVE-2025-68146, CVE-2026-22701: a lock follows a symbolic link and empties its target"),
    "opencv-python-headless": ("4.11.0.86", "CVE-2025-53644: a picture makes the decoder write outside its buffer"),
    "onnx": ("1.20.1", "CVE-2026-27489, CVE-2026-34445: external data are read through links, attributes overwritten"),
    "pyarrow": ("23.0.0", "CVE-2026-25087: use after free"),
    "cryptography": ("46.0.6", "CVE-2026-39892: a buffer that is not contiguous is read beyond its end"),
    "pillow": ("12.2.0", "PYSEC-2026-2253 to 2257"),
    "fonttools": ("4.60.1", "CVE-2025-66034: a designspace file makes varLib write anywhere"),
    "lightning": ("2.6.3", "GHSA-w37p-236h-pfx3: the release steals credentials"),
    "mlflow-skinny": ("3.12.0", "CVE-2026-2635, CVE-2026-8147"),
    "starlette": ("1.3.0", "CVE-2026-48710: a malformed Host header passes a check of hosts"),
}


def _requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for each in lists for text in each if not text.startswith("vplface[")]


@pytest.mark.parametrize("name", FAULTY)
def test_pyproject_excludes_versions_with_known_faults(name):
    bounds = [requirement.specifier for requirement in _requirements() if requirement.name == name]
    assert bounds
    assert not any(bound.contains(FAULTY[name][0]) for bound in bounds), FAULTY[name][1]


def test_pyproject_bounds_include_the_versions_in_constraints_txt():
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for requirement in _requirements():
        name = requirement.name.lower().replace("_", "-")
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), requirement
