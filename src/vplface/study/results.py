"""The results of the finished runs of a study: summary.json and one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vplface.errors import ConfigError
from vplface.evaluation import Evaluation
from vplface.evaluation.figure import Difference
from vplface.evaluation.metrics import Metric, in_order
from vplface.files import write_json
from vplface.report import RunRecord, average_runs, read_run, write_study
from vplface.report.results import coverage_reached
from vplface.study.folds import PEOPLE_OF_FOLDS, complete, join_folds
from vplface.study.grid import Cell, Grid
from vplface.study.pool import paired, pool
from vplface.study.single import measured, standing

FINAL_SHARE = 0.05
"""The last part of the log over which the final loss is averaged."""


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        summary: as summary.json holds it.
        verdict: the conclusion.
        report: the page.
    """

    summary: Mapping[str, Any]
    verdict: str
    report: Path


def conclude(grid: Grid, failed: Mapping[str, str]) -> Results:
    """Summarise all finished runs of a study, and write summary.json and report.html beside them.

    Args:
        grid: the study.
        failed: {run: why} of runs that failed just now.

    Raises:
        ConfigError: runs that are to be compared were not evaluated on the same pairs.
    """
    finished = [cell for cell in grid.cells if standing(cell.config).state == "finished"]
    settings: dict[str, Any] = {}
    curves: dict[str, list[RunRecord]] = {}
    incomplete: list[str] = []
    for setting in grid.settings:
        here = [cell for cell in finished if cell.setting == setting]
        try:
            settings[setting], curves[setting], left_out = _setting(grid, setting, here)
            incomplete += left_out
        except ConfigError as error:
            raise ConfigError(f"setting {setting!r}: {error}") from error
    done = {cell.name for cell in finished}
    summary = {
        "name": grid.name,
        "seeds": grid.seeds,
        "arms": grid.arms,
        "baselines": list(grid.baselines),
        "settings": settings,
        "comparisons": sum(
            len(metrics)
            for setting in settings.values()
            for arms in setting["differences"].values()
            for sets in arms.values()
            for metrics in sets.values()
        ),
        "failed": dict(failed),
        "incomplete": incomplete,
        "missing": [cell.name for cell in grid.cells if cell.name not in done and cell.name not in failed],
    }
    report = grid.folder / "report.html"
    verdict = write_study(report, summary, curves)
    write_json(grid.folder / "summary.json", {"schema": 1, **summary, "verdict": verdict})
    return Results(summary, verdict, report)


def final_loss(record: RunRecord) -> float | None:
    """Mean training loss over the last twentieth of the steps: how well the embedding fits the training pictures."""
    steps, losses = record.series("loss")
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if not len(steps):
        return None
    return float(losses[steps > (1 - FINAL_SHARE) * steps[-1]].mean())


def _setting(grid: Grid, setting: str, finished: list[Cell]) -> tuple[dict[str, Any], list[RunRecord], list[str]]:
    """The summary of a setting, the logs of its arms, and the seeds that are left out, with their finished folds."""
    arms: dict[str, Any] = {}
    evaluations: dict[str, dict[int, dict[str, Evaluation]]] = {}
    curves: list[RunRecord] = []
    left_out: list[str] = []
    folds = grid.folds(setting)
    for arm in grid.arms:
        by_seed, begun = complete([cell for cell in finished if cell.arm == arm], folds)
        left_out += [f"{setting}/{arm}-seed{seed} ({done} of {folds} folds)" for seed, done in begun.items()]
        if not by_seed:
            continue
        evaluations[arm] = {seed: _evaluations(cells) for seed, cells in by_seed.items()}
        records = {seed: [read_run(cell.folder) for cell in cells] for seed, cells in by_seed.items()}
        arms[arm] = {
            "seeds": list(by_seed),
            "final_loss": _over_seeds(records, final_loss),
            "coverage": _over_seeds(records, coverage_reached),
            "sets": {
                name: {
                    metric: _figure(evaluation, metric, [each[name] for each in evaluations[arm].values()])
                    for metric in in_order(evaluation.metrics)
                    if _is_shown(metric, grid.metrics)
                }
                for name, evaluation in pool(list(evaluations[arm].values())).items()
            },
        }
        curves.append(average_runs([record for of_seed in records.values() for record in of_seed], arm))
    differences: dict[str, Any] = {}
    for baseline in grid.baselines:
        if baseline in evaluations:
            differences[baseline] = {
                arm: _shown(paired(evaluations[baseline], of_arm), grid.metrics)
                for arm, of_arm in evaluations.items()
                if arm != baseline and not (arm in grid.baselines and arm in differences)
            }
    return {"arms": arms, "differences": differences} | _folds(evaluations), curves, left_out


def _evaluations(of_seed: Sequence[Cell]) -> dict[str, Evaluation]:
    """The evaluations of one arm and seed, of all folds together."""
    if of_seed[0].fold is None:
        return measured(of_seed[0].folder)
    return join_folds([measured(cell.folder) for cell in of_seed])


def _folds(evaluations: Mapping[str, Mapping[int, Mapping[str, Evaluation]]]) -> dict[str, Any]:
    """{"folds": {set: the people tested in each fold}} where people are divided."""
    one = next((found for of_arm in evaluations.values() for found in of_arm.values()), {})
    people = {name: found.protocol.get(PEOPLE_OF_FOLDS) for name, found in one.items()}
    return {"folds": people} if any(people.values()) else {}


def _over_seeds(
    records: Mapping[int, Sequence[RunRecord]], of_run: Callable[[RunRecord], float | None]
) -> dict[str, Any]:
    """A quantity of the runs of each seed, a fold each, where it is known, and its mean over the seeds."""
    found = [[value for record in of_seed if (value := of_run(record)) is not None] for of_seed in records.values()]
    per_seed = [float(np.mean(values)) for values in found if values]
    return {"value": float(np.mean(per_seed)) if per_seed else None, "per_seed": per_seed}


def _is_shown(metric: str, metrics: Sequence[str]) -> bool:
    """Whether a metric is among those that a study names; without names, all that judge a model are shown."""
    return metric in metrics if metrics else not Metric.parse(metric).descriptive


def _figure(pooled: Evaluation, metric: str, of_seeds: list[Evaluation]) -> dict[str, Any]:
    figure = pooled.metrics[metric]
    kept = {key: figure.details.get(key) for key in ("std_over_seeds", "reason")}
    kept = {key: value for key, value in kept.items() if value is not None}
    per_seed = [one.metrics[metric].value for one in of_seeds]
    if PEOPLE_OF_FOLDS in pooled.protocol and figure.value is not None:
        kept["per_fold"] = np.mean([one.metrics[metric].details["per_fold"] for one in of_seeds], axis=0).tolist()
    return replace(figure, details={**kept, "per_seed": per_seed}).to_json()


def _shown(differences: Mapping[str, Mapping[str, Difference]], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        name: {metric: of_set[metric].to_json() for metric in in_order(of_set) if _is_shown(metric, metrics)}
        for name, of_set in differences.items()
    }
