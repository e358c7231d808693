"""Training, evaluation and comparison of the arms of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vplface.config import Config
from vplface.errors import ConfigError
from vplface.evaluation import Evaluation, compare
from vplface.files import write_json
from vplface.report import FINETUNED, UNTOUCHED, RunRecord, read_run, write_report
from vplface.run_folder import RunFolder
from vplface.study.grid import grid_of_recipe
from vplface.study.pool import pool
from vplface.study.single import figures, finish, mark_for_restart, measure, measured
from vplface.training.distributed import launch
from vplface.training.train import train
from vplface.training.validation import validation_of


@dataclass(frozen=True)
class Study:
    """Compared runs and the conclusion.

    Attributes:
        runs: an arm each, its figures averaged over seeds.
        verdict: one sentence, which claims no more than the intervals show.
        summary: per arm, set and metric the mean over seeds, its standard deviation and 95 % interval; per set and
            metric the paired difference of the second arm to the first. Of a single run that was compared with the
            model that it started from, the figures of both and their difference, too.
        report: the page.
    """

    runs: Sequence[RunRecord]
    verdict: str
    summary: Mapping[str, Any]
    report: Path


def run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Study | None:
    """Train one model, evaluate it and write its report into the run folder.

    Args:
        config: the run.
        resume: continue from the last checkpoint.
        overwrite: replace an earlier run.

    Returns:
        The evaluated run; None in all processes but the first, where torchrun started several.

    Raises:
        VplfaceError: see ``training.train.train``.
    """
    if train(config, resume=resume, overwrite=overwrite) is None:
        return None
    measure(config)
    folder = config.run_folder
    record = read_run(folder)
    report = RunFolder(folder).report
    validation = validation_of(config)
    verdict = write_report(report, [record], config.name, picture_of=validation.picture)
    summary: dict[str, Any] = {"runs": {record.name: figures(measured(folder))}}
    if tuned := record.finetuning:
        for name, key in ((UNTOUCHED, "untouched"), (FINETUNED, "finetuned")):
            summary["runs"][name] = {of_set: found["metrics"] for of_set, found in tuned[key].items()}
        summary |= {"differences_to": UNTOUCHED, "differences": {FINETUNED: tuned["differences"]}}
        keys = ("helped", "guard_fell", "step", "deciding", "guard", "guards")
        summary["finetuning"] = {key: tuned[key] for key in keys}
    return Study([record], verdict, summary, report)


def compare_arms(config: Config, seeds: Sequence[int], *, overwrite: bool = False) -> Study:
    """Train every arm of a recipe with every seed, and compare each arm with the first one on the same pairs.

    Finished runs of an earlier call are kept and unfinished ones are resumed. Runs lie in OUTPUT/NAME/ARM, with
    several seeds in OUTPUT/NAME/ARM-seedK.

    Args:
        config: the recipe; without arms it is itself the only one.
        seeds: of training; the evaluation is the same for all.
        overwrite: restart all runs.

    Raises:
        ConfigError: if an arm is not a valid configuration.
        VplfaceError: see ``training.train.train``.
    """
    if (started := launch()) is not None and started[0] > 1:
        raise ConfigError(
            "a study trains its arms in one process each; for many processes train one run: vplface train"
        )
    grid = grid_of_recipe(config, seeds)
    evaluations: dict[str, list[dict[str, Evaluation]]] = {arm: [] for arm in grid.arms}
    folders: dict[str, list[Path]] = {arm: [] for arm in grid.arms}
    if overwrite:
        mark_for_restart(cell.config for cell in grid.cells)
    for cell in grid.cells:
        finish(cell.config)
        folders[cell.arm].append(cell.folder)
        evaluations[cell.arm].append(measured(cell.folder))
    folder = grid.folder
    pooled = {arm: pool(of_seeds) for arm, of_seeds in evaluations.items()}
    first, *others = grid.arms
    differences = {
        other: {name: compare(pooled[first][name], evaluation) for name, evaluation in pooled[other].items()}
        for other in others
    }
    summary = {
        "seeds": list(seeds),
        "runs": {arm: figures(of_arm) for arm, of_arm in pooled.items()},
        "differences_to": first,
        "differences": differences,
    }
    write_json(folder / "summary.json", summary)
    write_json(folder / "comparison.json", differences[others[0]] if len(others) == 1 else {})
    records = [
        replace(
            read_run(of_arm[0]),
            name=arm,
            seeds=list(seeds),
            evaluations={name: evaluation.to_dict() for name, evaluation in pooled[arm].items()},
        )
        for arm, of_arm in folders.items()
    ]
    report = folder / "report.html"
    verdict = write_report(report, records, config.name, picture_of=validation_of(config).picture)
    return Study(records, verdict, summary, report)
