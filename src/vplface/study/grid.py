"""The runs of a study, settings × arms × seeds × folds, read from one file and validated."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, model_validator

from vplface import bounds
from vplface.config import Config, FoldsConfig, apply_overrides, build_config, overlay, read_recipe
from vplface.config.fields import FolderName, Seed
from vplface.config.section import Section
from vplface.config.validation import refuse_unknown_keys, validate
from vplface.errors import ConfigError, UsageError
from vplface.evaluation.metrics import RANK, TAIL, TAR, measurable
from vplface.reading import is_file
from vplface.suggest import did_you_mean_or_known

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""The names that an option can list between commas."""
MOST_RUNS = 10_000


class StudyFile(Section, BaseModel):
    """The content of a study file: a base and the changes to it.

    Attributes:
        name: of the study.
        output: where studies are kept; this one lies in OUTPUT/NAME.
        recipe: the base, by name or path (looked for beside the study file first).
        base: changes to the recipe, or without one the base itself.
        settings: {name: changes}, data sets for example; none: one setting, the base.
        arms: {name: changes}, laid over a setting's; none: those of the recipe.
        seeds: of training.
        folds: of people: each run tests one and trains on the others; none: all people of the sets are tested. A
            setting may have folds of its own.
        baselines: the arms that each other arm is compared with; none: the first.
        metrics: what is shown and compared; none: all there are.
        workers: runs that train side by side; none: as many as there are cores for.
        threads: of each, if the recipe does not set them.
    """

    name: FolderName
    output: Path = Path("runs")
    recipe: str | None = None
    base: dict[str, Any] = {}
    settings: dict[Word, dict[str, Any]] = {}
    arms: dict[Word, dict[str, Any]] = {}
    seeds: list[Seed] = Field(default=[0], min_length=1, max_length=MOST_RUNS)
    folds: FoldsConfig | None = None
    baselines: list[str] = []
    metrics: list[str] = []
    workers: int | None = Field(default=None, ge=1, le=bounds.PROCESSES)
    threads: int = Field(default=1, ge=1, le=bounds.THREADS)

    @model_validator(mode="after")
    def _has_a_base(self) -> StudyFile:
        if self.recipe is None and not self.base:
            raise ValueError("give a recipe (its name or path), or the configuration of all runs under base")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    setting: str
    arm: str
    seed: int
    config: Config

    @property
    def fold(self) -> int | None:
        """The number of its fold; None where people are not divided."""
        return None if self.config.fold is None else self.config.fold.number

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.config.run_folder

    @property
    def name(self) -> str:
        """The name of the run in messages."""
        return "/".join(part for part in (self.setting, self.config.name) if part)


@dataclass(frozen=True)
class Grid:
    """All runs of a study.

    Attributes:
        name: of the study.
        folder: the folder of the runs, the summary and the page.
        cells: all runs of the study, setting by setting.
        chosen: the runs to carry out.
        baselines: arms that the others are compared with.
        metrics: what is shown; empty for all.
        workers: runs that train side by side.
        threads: of each.
    """

    name: str
    folder: Path
    cells: Sequence[Cell]
    chosen: Sequence[Cell]
    baselines: Sequence[str]
    metrics: Sequence[str] = ()
    workers: int = 1
    threads: int = 1

    @property
    def settings(self) -> list[str]:
        """The names of the settings."""
        return list(dict.fromkeys(cell.setting for cell in self.cells))

    @property
    def arms(self) -> list[str]:
        """The names of the arms."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds of training."""
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    def folds(self, setting: str) -> int | None:
        """The number of folds of a setting; None where people are not divided."""
        return next(
            (cell.config.fold.count for cell in self.cells if cell.setting == setting and cell.config.fold), None
        )


def is_study(raw: Mapping[str, Any]) -> bool:
    """Whether a file describes a study; a recipe has none of these keys."""
    return not raw.keys().isdisjoint(StudyFile.model_fields.keys() - Config.model_fields.keys())


def read_grid(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
) -> Grid:
    """Read a study file and validate every run of it.

    Args:
        path: the YAML file.
        overrides: ``key=value``: a key of the study file changes it, any other every setting; arms are laid over that.
        seeds: train these; they may be others than those of the file.
        arms: train these of its arms; None: all.
        settings: train these of its settings; None: all.
        folds: train these of its folds; None: all.

    Raises:
        ConfigError: naming the setting, the arm and the key at fault.
        UsageError: an override that cannot be applied, or an arm or setting that the file does not have.
    """
    raw = read_recipe(path)
    ours = {key: value for key, value in StudyFile.model_fields.items() if key != "base"}
    of_file = [override for override in overrides if override.partition("=")[0].split(".")[0] in (*ours, "base")]
    of_runs = [override for override in overrides if override not in of_file]
    for override in of_runs:
        if override.partition("=")[0] == "seed":
            raise UsageError("the seeds of a study are chosen by --seeds, or by seeds= in its file")
    file = validate(StudyFile, apply_overrides(raw, of_file), str(path))
    base = dict(file.base)
    if file.recipe is not None:
        beside = Path(path).parent / file.recipe
        base = overlay(read_recipe(beside if is_file(beside) else file.recipe), base)
    of_recipe = base.pop("arms", None) or {}
    refuse_unknown_keys(Config, base, f"{path}: base")
    all_arms = file.arms or of_recipe or {"run": {}}
    all_settings = file.settings or {Path(file.recipe).stem if file.recipe else "base": {}}
    chosen_arms = _chosen("--arms", arms, all_arms)
    chosen_settings = _chosen("--settings", settings, all_settings)
    cells = _cells(path, file, {"threads": file.threads} | base, of_runs, all_settings, all_arms, seeds or ())
    _require_folds(folds or (), cells)
    baselines = _known("baselines", file.baselines, all_arms, path) or [next(iter(all_arms))]
    return Grid(
        name=file.name,
        folder=file.output / file.name,
        cells=cells,
        chosen=[
            cell
            for cell in cells
            if cell.setting in chosen_settings
            and cell.arm in chosen_arms
            and cell.seed in (file.seeds if seeds is None else seeds)
            and (folds is None or cell.fold in folds)
        ],
        baselines=baselines,
        metrics=_known("metrics", file.metrics, _metrics(cells), path),
        workers=file.workers or max(1, _cores() // file.threads),
        threads=file.threads,
    )


def grid_of_recipe(config: Config, seeds: Sequence[int]) -> Grid:
    """The arms of a recipe as a study of one setting; runs lie in OUTPUT/NAME/ARM, of several seeds in ARM-seedK.

    Raises:
        ConfigError: an arm is not a valid configuration.
    """
    arms = config.arms or {"run": {}}
    raw = config.model_dump(mode="json") | {"arms": {}, "output": str(config.run_folder)}
    cells = []
    for seed in seeds:
        for arm, changes in arms.items():
            name = arm if len(seeds) == 1 else f"{arm}-seed{seed}"
            settled = build_config(overlay(raw, changes) | {"name": name, "seed": seed}, f"arm {arm!r}")
            cells.append(Cell("", arm, seed, settled))
    return Grid(config.name, config.run_folder, cells, cells, [next(iter(arms))])


def _cells(
    path: str | Path,
    file: StudyFile,
    base: Mapping[str, Any],
    overrides: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    arms: Mapping[str, Mapping[str, Any]],
    more_seeds: Sequence[int],
) -> list[Cell]:
    """All runs, by setting, seed, fold and arm; ``overrides`` are applied to a setting, below its arms."""
    seeds = list(dict.fromkeys([*file.seeds, *more_seeds]))
    of_file = {} if file.folds is None else {"folds": file.folds.model_dump(mode="json")}
    below = {setting: overlay({**base, **of_file}, changes) for setting, changes in settings.items()}
    folds = {setting: _folds(raw.pop("folds", None), f"{path}: setting {setting!r}") for setting, raw in below.items()}
    runs = len(arms) * len(seeds) * sum(map(len, folds.values()))
    if runs > MOST_RUNS:
        raise ConfigError(f"{path}: {runs:,} runs; settings × arms × seeds × folds may be at most {MOST_RUNS:,}")
    cells = []
    for setting, raw in below.items():
        changed = apply_overrides(raw, overrides)
        output = str(file.output / file.name / setting)
        for seed, fold, arm in product(seeds, folds[setting], arms):
            name = f"{arm}-seed{seed}" + (f"-fold{fold['number']}" if fold else "")
            here = {"name": name, "output": output, "seed": seed} | ({"fold": fold} if fold else {})
            values = overlay(changed, arms[arm]) | here
            # None removes a section: its defaults apply.
            config = build_config(
                {key: value for key, value in values.items() if value is not None},
                f"{path}: setting {setting!r}, arm {arm!r}",
            )
            cells.append(Cell(setting, arm, seed, config))
    return cells


def _folds(raw: Any, where: str) -> list[dict[str, Any] | None]:
    """The section ``fold`` of each fold of a setting; [None] where people are not divided."""
    if raw is None:
        return [None]
    folds = validate(FoldsConfig, raw, f"{where}: folds")
    return [folds.model_dump(mode="json") | {"number": number} for number in range(1, folds.count + 1)]


def _chosen(option: str, wanted: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"{option}: there is no {name!r}{did_you_mean_or_known(name, known)}")
    return list(known if wanted is None else wanted)


def _require_folds(wanted: Sequence[int], cells: Sequence[Cell]) -> None:
    known = {cell.fold for cell in cells if cell.fold is not None}
    for number in wanted:
        if number not in known:
            raise UsageError(f"--folds: there is no {number}; known: {', '.join(map(str, sorted(known))) or 'none'}")


def _known(key: str, wanted: Sequence[str], known: Iterable[str], path: str | Path) -> list[str]:
    known = list(known)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{path}: {key}: there is no {name!r}{did_you_mean_or_known(name, known)}")
    return list(wanted)


def _metrics(cells: Iterable[Cell]) -> list[str]:
    """The metrics that the evaluations of the runs can measure."""
    fars = [far for cell in cells for far in sorted(cell.config.evaluation.fars, reverse=True)]
    return measurable({TAR: fars, RANK: [1], TAIL: fars})


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
