"""Recipes: YAML files, run folders and the recipes that come with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vplface.config.overrides import apply_overrides
from vplface.config.run import Config, build_config
from vplface.errors import ConfigError, DataError, UsageError
from vplface.paths import at_home
from vplface.reading import kind_of, read_text
from vplface.run_folder import RunFolder
from vplface.strict_yaml import LIMIT, parse_yaml
from vplface.suggest import similar_names


def read_config(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply ``key=value`` overrides (``optimizer.lr=0.05``, ``data.train.0.min_pictures=2``).

    Args:
        recipe: the path of a YAML file, a run folder, or the name of a shipped recipe (``lfw``).
        overrides: dotted keys and YAML values.

    Raises:
        ConfigError: naming the file and the key, with a suggestion where the key is unknown.
        UsageError: the same, where the fault is in an override.
    """
    raw = read_recipe(recipe)
    try:
        return build_config(apply_overrides(raw, overrides), str(recipe))
    except ConfigError as error:
        if overrides and _is_valid(raw):
            raise UsageError(str(error)) from error
        raise


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = files("vplface").joinpath("configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


_READABLE = ("file", "other")  # read_text names the kind of a path that is not a regular file


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The raw contents of a recipe; see :func:`read_config`. Name and output of a run folder are those of its path."""
    try:
        return _read_recipe(recipe)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    path, name_and_output = at_home(recipe), {}
    if kind_of(RunFolder(path).config) in _READABLE:
        folder = path if path.name not in ("", "..") else path.resolve()
        name_and_output = {"name": folder.name, "output": str(folder.parent)}
        path = RunFolder(path).config
    if kind_of(path) in _READABLE:
        text = read_text(path, limit=LIMIT)
    elif path.stem in shipped_recipes() and str(path.parent) in (".", "configs"):
        text = files("vplface").joinpath("configs", f"{path.stem}.yaml").read_text(encoding="utf-8")
    else:
        shipped = shipped_recipes()
        known = {name: name for name in shipped} | {file.stem: str(file) for file in path.parent.glob("*.yaml")}
        similar = similar_names(path.stem, known)
        raise ConfigError(
            f"no configuration {str(recipe)!r}: neither a file, a run folder nor a shipped recipe"
            + (f"; did you mean {known[similar[0]]!r}?" if similar else f"; known: {', '.join(shipped)}")
        )
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{recipe} must hold a mapping of keys to values")
    return raw | name_and_output


def _is_valid(raw: Mapping[str, Any]) -> bool:
    try:
        build_config(raw, "")
    except ConfigError:
        return False
    return True
